#!/usr/bin/env python3
"""Rounds of chaos under load, and an oracle over every verdict. See ./run."""

import argparse
import concurrent.futures
import os
import pathlib
import random
import signal
import sys
import threading
import time

from proxy import MODES
from scene import AGENTS, VERIFIERS, WORKLOADS, Scene, quiet
from taskmint.admin.v1.admin_pb2_grpc import AdminStub
from taskmint.task.v1 import task_pb2 as task_api
from oracle import ensure, wait_for
from verdicts import Oracle

# A fresh trust domain after so many rounds, so that a long run stays linear.
ROUNDS_OF_A_WORLD = 40
# Live tasks of a workload, so many as make for a choice.
MOST = 5
# Longer than any verifier may believe what it has heard.
LONG = 3.6


class Fault:
    """Something that goes wrong for a while: how it begins, how it is over, who is cut off by it."""

    def __init__(self, scene, dice):
        self.scene = scene
        kind = dice.choice(("kill", "stop", "stop", "network", "network", "network", "signer",
                            "verifier", "workload"))
        self.mode, self.cuts = kind, ()
        self.at = dice.random() * 0.8
        self.lasts = LONG + dice.random() if dice.random() < 0.25 else 0.1 + dice.random()
        getattr(self, f"_choose_{kind}")(dice)

    def __str__(self):
        return f"{self.mode} {self.what} {self.lasts:.1f} s"

    def _choose_kill(self, dice):
        self._choose_daemon(dice)
        self.begin, self.end = self._kill, lambda: self.scene.revive(self.what)

    def _choose_stop(self, dice):
        self._choose_daemon(dice)
        self.begin = lambda: self._signal(signal.SIGSTOP)
        self.end = lambda: self._signal(signal.SIGCONT)

    def _choose_daemon(self, dice):
        self.what = dice.choice(("server", *AGENTS))
        self.cuts = [name for name, agent in VERIFIERS.items() if self.what in ("server", agent)]

    def _choose_network(self, dice):
        self.what, self.mode = dice.choice(sorted(self.scene.proxies)), dice.choice(MODES)
        proxy = self.scene.proxies[self.what]
        if self.mode in ("drop", "freeze"):
            leg = self.what.split("-")
            self.cuts = [name for name, agent in VERIFIERS.items()
                         if leg == [agent, "watch"] or leg == [name, "relay"]]
        self.begin, self.end = lambda: proxy.set(self.mode), lambda: proxy.set("pass")

    def _choose_signer(self, _):
        self.what = "of the server"
        self.begin, self.end = self._kill_signer, lambda: None  # the server starts it again

    def _choose_verifier(self, dice):
        self.what = dice.choice(sorted(VERIFIERS))
        if dice.random() < 0.5:
            self.mode = "kill"
            self.begin = lambda: self.scene.verifiers[self.what].process.kill()
            self.end = lambda: self.scene.revive(self.what)
        else:
            self.mode = "stop"
            self.begin = lambda: self._signal_verifier(signal.SIGSTOP)
            self.end = lambda: self._signal_verifier(signal.SIGCONT)

    def _choose_workload(self, dice):
        self.what, self.mode = dice.choice(WORKLOADS), "kill"
        self.begin = lambda: self.scene.workloads[self.what].process.kill()
        self.end = lambda: None  # the rounds look after it

    def _kill(self):
        self.scene.daemons[self.what].kill()
        self.scene.daemons[self.what].wait()

    def _kill_signer(self):
        pid = self.scene.signer() if self.scene.daemons["server"].poll() is None else None
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    def _signal(self, number):
        self.scene.daemons[self.what].send_signal(number)

    def _signal_verifier(self, number):
        self.scene.verifiers[self.what].process.send_signal(number)


class Rounds:
    """Rounds in one world."""

    def __init__(self, folder, options, seed):
        self.oracle = Oracle()
        self.scene = Scene(folder, options.bin, seed, self.oracle)
        self.what = "set up"
        self.calls = concurrent.futures.ThreadPoolExecutor(16)
        self.stop = threading.Event()
        self.asker = threading.Thread(target=self._ask, args=(random.Random(seed),), daemon=True)

    def set_up(self):
        self.scene.set_up()
        self.asker.start()

    def one(self, dice):
        """One round: faults under load, then everything recovers, and nothing was lost."""
        # One for each target: of two, the one that is over first would put right the other.
        faults = {}
        for _ in range(dice.choice((1, 1, 2, 3))):
            fault = Fault(self.scene, dice)
            faults.setdefault(fault.what, fault)
        faults = list(faults.values())
        self.what = " + ".join(map(str, faults))
        events = [(fault.at, 1, number) for number, fault in enumerate(faults)]
        events += [(fault.at + fault.lasts, 0, number) for number, fault in enumerate(faults)]
        events.sort()
        going, start = [], time.monotonic()
        while events:
            at, begins, number = events[0]
            if time.monotonic() - start < at:
                self._load(dice)
                time.sleep(0.02)
                continue
            events.pop(0)
            if begins:
                faults[number].begin()
                going.append(faults[number])
                self.oracle.cut(faults[number].cuts)
            else:
                # Whom another fault still cuts off may have heard something in the meantime.
                going.remove(faults[number])
                self.oracle.joined()
                faults[number].end()
                for fault in going:
                    self.oracle.cut(fault.cuts)
            self.oracle.check()
        self._settle()

    def _load(self, dice):
        """One more thing that a workload or an operator does."""
        name = dice.choice(WORKLOADS)
        talker, roll = self.scene.workloads[name], dice.random()
        live = self.oracle.live_of(talker)
        if len(live) < MOST and roll < 0.5:
            talker.ask('{"op": "begin"}', 2)
            return
        if not live:
            return
        task = dice.choice(live)
        if roll < 0.7:
            self._end(task, talker if dice.random() < 0.5 else None)
        elif task.suspended_at is not None:
            task.suspended_at = None
            talker.ask(f'{{"op": "resume", "task": "{task.id}"}}', 2)
        elif roll < 0.85:
            talker.ask(f'{{"op": "suspend", "task": "{task.id}"}}', 2)

    def _end(self, task, talker):
        """Ends a task, by its holder or by an operator, and listens to its receipt."""
        if talker is None or not talker.ask(f'{{"op": "complete", "task": "{task.id}"}}', 2):
            self.calls.submit(self._revoke, task)
        task.state = "ending"
        self.calls.submit(self._receipt, task)

    def _revoke(self, task):
        with self.scene.admin() as connection:
            request = task_api.EndRequest(request_id=os.urandom(16), task_id=task.id, wait=True)
            answer = quiet(AdminStub(connection).RevokeTask, request, timeout=5)
        if answer is not None and answer.task.state == task_api.STATE_ENDED:
            self.oracle.ended(task.id, answer.receipt.dead_everywhere_by_ms)

    def _receipt(self, task):
        wait_until = time.monotonic() + 5
        while task.state != "ended" and time.monotonic() < wait_until:
            time.sleep(0.02)
        with self.scene.admin() as connection:
            request = task_api.WaitRequest(task_id=task.id, timeout_ms=3_000)
            quiet(self._listen, AdminStub(connection).WaitTask(request, timeout=5), task)

    def _listen(self, receipts, task):
        for receipt in receipts:
            heard = [*receipt.applied, *receipt.applied_by_relay]
            names = [one.name for one in heard if one.left_at_ms == 0 and one.name in VERIFIERS]
            self.oracle.heard(task.id, receipt, names)

    def _ask(self, dice):
        """Has every verifier judge tasks without end, the newest ends first of all."""
        while not self.stop.wait(0.02):
            ended, others = self.oracle.of("ended"), self.oracle.of("live", "ending")
            chosen = ended[-3:] + dice.sample(ended, min(2, len(ended)))
            chosen += dice.sample(others, min(3, len(others)))
            for talker in list(self.scene.verifiers.values()):
                for task in chosen:
                    talker.ask(f"{task.id} {task.leaf}", 16)

    def _settle(self):
        """Everything recovers by itself; what was acknowledged is so; a fresh task works."""
        scene, oracle = self.scene, self.oracle
        for name in scene.daemons:
            scene.ready(name)
        for name, talker in list(scene.workloads.items()):
            if talker.process.poll() is not None:
                self._bury(name, talker)
        fresh = [self._fresh(talker) for talker in scene.workloads.values()]
        wait_for("verifiers accept fresh tasks", lambda: self._all_say(fresh, lambda said: said == "ok"))
        recent = oracle.of("ended")[-30:]
        wait_for("verifiers refuse what has ended",
                 lambda: self._all_say(recent, lambda said: said not in (None, "ok")))
        for task in fresh:
            talker = task.holder
            wait_for("a task ends", lambda task=task, talker=talker: task.state == "ended" or (
                talker.ask(f'{{"op": "complete", "task": "{task.id}"}}', 1) and False))
            self.calls.submit(self._receipt, task)
        self._same_by_the_server()
        oracle.check()

    def _bury(self, name, talker):
        """Everything of a dead holder ends without its help (contract line 7)."""
        talker.kill()
        left = [task for task in self.oracle.of("live", "ending") if task.holder == talker]

        def all_ended():
            states = quiet(self.scene.states, [task.id for task in left]) or {}
            return len(states) == len(left) and all(
                state == task_api.STATE_ENDED for state in states.values())

        if left:
            wait_for(f"all tasks of the dead {name} end", all_ended)
        for task in left:
            self.oracle.ended(task.id, None)
        self.scene.start_workload(name, talker.agent)

    def _fresh(self, talker):
        known = set(self.oracle.tasks)

        def begun():
            new = [task for task in self.oracle.live_of(talker) if task.id not in known]
            if not new:
                talker.ask('{"op": "begin"}', 1)
            return new

        wait_for("a fresh task begins", begun)
        return begun()[0]

    def _all_say(self, tasks, wanted):
        """Whether each verifier says of each task what is wanted, asked anew from here on."""
        missing = False
        for name, talker in self.scene.verifiers.items():
            said = self.scene.verdicts[name]
            for task in tasks:
                if not wanted(said.get(task.id)):
                    missing = True
                    talker.ask(f"{task.id} {task.leaf}", 64)
        return not missing

    def _same_by_the_server(self):
        oracle = self.oracle
        ended = [task.id for task in oracle.of("ended")[-40:]]
        for task, state in self.scene.states(ended).items():
            ensure(state == task_api.STATE_ENDED, f"the server says that {task} has not ended")
        live = [task.id for task in oracle.of("live")]
        for task, state in self.scene.states(live).items():
            ensure(state != task_api.STATE_ENDED or oracle.tasks[task].state != "live",
                   f"nobody ended {task}, whose holder lives, and it has ended")

    def prove(self):
        ended = self.oracle.of("ended")
        wait_for("a receipt names a verifier", lambda: any(task.applied for task in ended))
        self.oracle.prove()

    def close(self):
        self.stop.set()
        if self.asker.is_alive():
            self.asker.join(10)
        self.calls.shutdown(wait=False, cancel_futures=True)
        self.scene.close()


def run(options):
    passed, totals = 0, {}
    while passed < options.rounds:
        folder = options.work / f"w{passed}"
        folder.mkdir()
        rounds = Rounds(folder, options, f"{options.seed}/{passed}")
        try:
            rounds.set_up()
            for _ in range(min(ROUNDS_OF_A_WORLD, options.rounds - passed)):
                start, dice = time.monotonic(), random.Random(f"{options.seed}/{passed}")
                rounds.one(dice)
                passed += 1
                print(f"round {passed}: {rounds.what}; {time.monotonic() - start:.1f} s, "
                      f"{len(rounds.oracle.tasks)} begun", flush=True)
            rounds.prove()
        except Exception as error:  # noqa: BLE001 - told, with all that helps to find out why
            print(f"FAIL round {passed + 1}: {rounds.what}: {type(error).__name__}: {error}", flush=True)
            rounds.scene.complaints()
            return passed, 1
        finally:
            rounds.close()
        for name, count in rounds.oracle.counts.items():
            totals[name] = totals.get(name, 0) + count
    print("verdicts:", ", ".join(f"{count} {name}" for name, count in totals.items()))
    return passed, 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=lambda text: pathlib.Path(text).absolute(), required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--seed", default=str(int.from_bytes(os.urandom(4), "big")))
    parser.add_argument("rounds", type=int, nargs="?", default=10)
    options = parser.parse_args()
    print(f"tests/chaos/run --seed {options.seed} {options.rounds}", flush=True)
    passed, failed = run(options)
    print(f"COUNT {passed} {failed} 0")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
