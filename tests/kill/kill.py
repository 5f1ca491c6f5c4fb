#!/usr/bin/env python3
"""Kills server, signer, agent and holders at random moments, and asks the oracle. See ./run."""

import argparse
import os
import pathlib
import random
import sys
import time

from follow import Follower
from oracle import Dump, Facts, Wrong, ensure, tampered
from world import World

# A fresh trust domain after so many rounds, so that a long run stays linear.
ROUNDS_OF_A_WORLD = 50
HOLDERS = 4
VICTIMS = {("server",): 5, ("signer",): 3, ("agent",): 2, ("holder",): 2, ("server", "agent"): 1,
           ("signer", "server"): 1, ("server", "agent", "holder"): 1}


class Rounds:
    """Rounds in one world."""

    def __init__(self, folder, options, dice):
        self.dice, self.dump_tool = dice, options.bin / "examples" / "dump"
        self.facts = Facts()
        self.world = World(folder, options.bin, dice, self.facts)
        self.follower = None
        self.checked = set()
        self.dumped = ""

    def set_up(self):
        self.world.set_up()
        self.follower = Follower(self.world.folder / "revocation.sock", self.facts)
        for _ in range(HOLDERS):
            self.world.add_holder()

    def one(self):
        """One round: load, a kill, the oracle over the disk, a restart, the oracle over the API."""
        heard = sum(holder.heard for holder in self.world.holders)
        victims = self.dice.choices(list(VICTIMS), VICTIMS.values())[0]
        if self.dice.random() < 0.8:
            self._load(heard)
        time.sleep(self.dice.random() * 0.5)
        dead = self._kill(victims)
        # Some are killed again before they have got ready.
        while set(victims) & {"server", "agent"} and self.dice.random() < 0.2:
            self._restart(victims)
            time.sleep(self.dice.random() * 0.3)
            self._kill([name for name in victims if name != "holder"])
        self._restart(victims)
        for name in ("server", "agent"):
            self.world.ready(name)
        self._check(dead)
        return victims

    def _load(self, heard):
        """Waits until something new was acknowledged: a kill of an idle system shows little."""
        deadline = time.monotonic() + 30
        while sum(holder.heard for holder in self.world.holders) < heard + 40:
            ensure(time.monotonic() < deadline, f"no load: refused {self.facts.refusals}")
            time.sleep(0.02)

    def _kill(self, victims):
        dead = None
        for name in victims:
            if name == "holder":
                holder = self.world.holders.pop(self.dice.randrange(len(self.world.holders)))
                holder.kill()
                dead = holder.pid
            else:
                self.world.kill(name)
        if "server" in victims:
            time.sleep(0.05)  # what was acknowledged is on its way through agent and pipes
            self.dumped = self.world.dump(self.dump_tool)
            self.facts.check_disk(Dump(self.dumped))
        return dead

    def _restart(self, victims):
        for name in victims:
            if name == "holder":
                if len(self.world.holders) < HOLDERS:
                    self.world.add_holder()
            else:
                self.world.start(name)

    def _check(self, dead):
        if dead is not None:
            self.world.check_dead(dead)
        ended = set(self.facts.ended)
        fresh = ended - self.checked
        again = self.dice.sample(sorted(self.checked), min(20, len(self.checked)))
        pids = {holder.pid for holder in self.world.holders}
        alive = [task for task, holder in self.facts.live().items() if holder in pids]
        self.world.check_answers([*fresh, *again], alive)
        self.checked |= fresh
        ensure(self.facts.wrong is None, self.facts.wrong)

    def prove(self):
        """A test that can't fail proves nothing: the oracle must notice what is not so."""
        self.world.audit()
        self.world.kill("server")
        text = self.world.dump(self.dump_tool)
        self.facts.check_disk(Dump(text))
        facts = self.facts
        ensure(facts.ended and facts.pushed and facts.heads, "nothing was tested")
        for what, changed in tampered(text, facts):
            try:
                facts.check_disk(Dump(changed))
            except Wrong:
                continue
            raise Wrong(f"the oracle did not notice that {what}")

    def close(self):
        if self.follower is not None:
            self.follower.stop.set()
        self.world.close()
        if self.follower is not None:
            self.follower.close()


def run(options, dice):
    """All rounds; returns how many passed and failed."""
    passed, totals = 0, [0] * 5
    while passed < options.rounds:
        folder = options.work / f"w{passed}"
        folder.mkdir()
        rounds = Rounds(folder, options, dice)
        try:
            rounds.set_up()
            for _ in range(min(ROUNDS_OF_A_WORLD, options.rounds - passed)):
                start = time.monotonic()
                victims = rounds.one()
                passed += 1
                facts = rounds.facts
                print(f"round {passed}: {'+'.join(victims)}, {time.monotonic() - start:.1f} s, "
                      f"{len(facts.begun)} begun, {len(facts.ended)} ended", flush=True)
            rounds.prove()
        except Exception as error:  # noqa: BLE001 - told, with all that helps to find out why
            print(f"FAIL round {passed + 1}: {type(error).__name__}: {error}", flush=True)
            rounds.world.complaints()
            return passed, 1
        finally:
            rounds.close()
        facts = rounds.facts
        for at, found in enumerate((
                facts.begun, facts.ended, facts.issued, facts.records, facts.pushed)):
            totals[at] += len(found)
    print("acknowledged: {} begun, {} ended, {} credentials; {} log records, {} of them pushed"
          .format(*totals))
    return passed, 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=lambda text: pathlib.Path(text).absolute(), required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("rounds", type=int)
    options = parser.parse_args()
    seed = os.environ.get("TASKMINT_KILL_SEED") or str(int.from_bytes(os.urandom(4), "big"))
    print(f"TASKMINT_KILL_SEED={seed}", flush=True)
    passed, failed = run(options, random.Random(seed))
    print(f"COUNT {passed} {failed} 0")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
