#!/usr/bin/env python3
"""A holder under load: begins tasks, mints under them, ends most of them, and says aloud what was
acknowledged, a fact a line. Started by kill.py, and killed by it.

    begun TASK BUCKET INDEX            ending TASK
    issued TASK KIND SERIAL            ended TASK POSITION

`ending` comes before the call: its answer may be lost while the end stands.
"""

import base64
import json
import os
import random
import sys
import time

import grpc
from channel import channel
from cryptography import x509
from der import first
from taskmint.task.v1 import task_pb2 as api
from taskmint.task.v1.task_pb2_grpc import TasksStub

SOON = 5
# Live at the same time; a caller that holds very many is another test.
MOST = 5


def say(*words):
    # One write: a line is there whole or not at all.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def serial_of(certificates):
    leaf = x509.load_der_x509_certificate(first(certificates))
    return leaf.serial_number.to_bytes(20, "big").hex()


def jti_of(token):
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["jti"]


def begin(tasks, dice):
    request = api.BeginRequest(
        request_id=dice.randbytes(16), purpose="kill test", ttl_ms=600_000,
        binding=api.BINDING_PROCESS)
    answer = tasks.Begin(request, timeout=SOON)
    task = answer.task
    say("begun", task.id, task.place.bucket, task.place.index)
    say("issued", task.id, "X509Svid", serial_of(answer.svid.certificates))
    return task.id


def mint(tasks, task):
    request = api.FetchJWTSVIDRequest(task_id=task, audience=["kill"])
    token = tasks.FetchJWTSVID(request, timeout=SOON).token
    # A token's id is padded with zeroes to the length of a serial.
    say("issued", task, "JwtSvid", jti_of(token).ljust(40, "0"))


def end(tasks, dice, task):
    call = dice.choice([tasks.Complete, tasks.Fail, tasks.Cancel])
    request = api.EndRequest(request_id=dice.randbytes(16), task_id=task, reason="kill test")
    say("ending", task)
    answer = call(request, timeout=SOON)
    if answer.task.state == api.STATE_ENDED:
        say("ended", task, answer.position)


def main():
    path, seed = sys.argv[1:]
    dice = random.Random(seed)
    tasks = TasksStub(channel(path))
    live = []
    while True:
        try:
            live.append(begin(tasks, dice))
            if dice.random() < 0.7:
                mint(tasks, live[-1])
            if dice.random() < 0.7 or len(live) > MOST:
                end(tasks, dice, live.pop(dice.randrange(len(live))))
        except grpc.RpcError as error:
            say("refused", error.code().name, json.dumps(error.details()))
            time.sleep(0.05)
        time.sleep(dice.random() * 0.01)


if __name__ == "__main__":
    main()
