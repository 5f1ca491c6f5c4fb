#!/usr/bin/env python3
"""A workload that does as it is told, a line of JSON each way. Started by chaos.py, killed by it.

`{"op": "begin"}`, or `complete`, `suspend` or `resume` with a `task`. Each is answered, whatever
comes of it; what is not answered in time may have happened or not.
"""

import json
import os
import sys

import grpc
from channel import channel
from der import first
from taskmint.task.v1 import task_pb2 as api
from taskmint.task.v1.task_pb2_grpc import TasksStub

SOON = 5


def begin(tasks, _):
    request = api.BeginRequest(request_id=os.urandom(16), purpose="chaos", ttl_ms=3_600_000,
                               binding=api.BINDING_PROCESS)
    answer = tasks.Begin(request, timeout=SOON)
    return {"task": answer.task.id, "leaf": first(answer.svid.certificates).hex()}


def complete(tasks, task):
    request = api.EndRequest(request_id=os.urandom(16), task_id=task, reason="chaos", wait=True)
    answer = tasks.Complete(request, timeout=SOON)
    return {"ended": answer.task.state == api.STATE_ENDED,
            "dead_by": answer.receipt.dead_everywhere_by_ms}


def suspend(tasks, task):
    request = api.SuspendRequest(request_id=os.urandom(16), task_id=task, reason="chaos")
    return {"suspended": tasks.Suspend(request, timeout=SOON).task.state == api.STATE_SUSPENDED}


def resume(tasks, task):
    tasks.Resume(api.ResumeRequest(request_id=os.urandom(16), task_id=task), timeout=SOON)
    return {}


def main():
    tasks = TasksStub(channel(sys.argv[1]))
    calls = {call.__name__: call for call in (begin, complete, suspend, resume)}
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = calls[asked["op"]](tasks, asked.get("task"))
        except grpc.RpcError as error:
            answer = {"error": f"{error.code().name}: {error.details()}"[:300]}
        print(json.dumps(asked | answer), flush=True)


if __name__ == "__main__":
    main()
