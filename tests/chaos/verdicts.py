"""What was acknowledged, who was cut off when, and whether each verdict agrees with that."""

import threading
import time

from oracle import ensure

# The configuration of the trust domain, and the default of verifiers.
MAX_AGE, DRIFT = 2_000, 1_000
# By which every verifier refuses what it can't have heard of: later than this, no head that it may
# still believe is from before. Clocks are read in steps of some milliseconds.
BOUND = MAX_AGE + DRIFT + 50


def now():
    return time.time_ns() // 1_000_000


class Task:
    def __init__(self, task, leaf, holder):
        self.id, self.leaf, self.holder = task, leaf, holder
        self.state = "live"
        self.ended_at = None  # when its end had been acknowledged, by our clock
        self.dead_by = None  # what the receipt says
        self.suspended_at = None  # while it certainly is
        self.applied = {}  # verifier -> when a receipt had named it


class Oracle:
    """Facts, and the verdicts that are held against them."""

    def __init__(self):
        self.lock = threading.RLock()
        self.tasks = {}
        self.cuts = {}  # verifier -> [from, until or None] during which it can have heard nothing
        self.wrong = None
        self.counts = {"ok": 0, "refused": 0, "past a bound": 0, "cut off": 0, "applied": 0}

    def begun(self, task, leaf, holder):
        with self.lock:
            self.tasks[task] = Task(task, leaf, holder)

    def ended(self, task, dead_by):
        with self.lock:
            known = self.tasks[task]
            known.state, known.ended_at = "ended", now()
            known.dead_by = dead_by or known.dead_by

    def heard(self, task, receipt, names):
        """A receipt says that these have applied the end of a task."""
        with self.lock:
            known, at = self.tasks[task], now()
            for name in names:
                known.applied.setdefault(name, at)
            known.dead_by = receipt.dead_everywhere_by_ms

    def cut(self, verifiers):
        with self.lock:
            for name in verifiers:
                self.cuts.setdefault(name, []).append([now(), None])

    def joined(self):
        """Nobody is cut off any more: said before the first one is joined again."""
        with self.lock:
            for spans in self.cuts.values():
                for span in spans:
                    span[1] = span[1] or now()

    def of(self, *states):
        with self.lock:
            return [task for task in self.tasks.values() if task.state in states]

    def live_of(self, holder):
        return [task for task in self.of("live") if task.holder == holder]

    def judge(self, verifier, task, at, verdict):
        """One verdict, of which `at` is before it was made."""
        with self.lock:
            known = self.tasks[task]
            must = list(self._reasons(verifier, known, at))
            for why, _ in must:
                self.counts[why] += 1
            self.counts["ok" if verdict == "ok" else "refused"] += 1
            if verdict == "ok" and must and self.wrong is None:
                what = "; ".join(f"{why}: {detail}" for why, detail in must)
                self.wrong = f"{verifier} accepted {task} at {at}, {what}"

    def _reasons(self, verifier, task, at):
        """Why this verifier must refuse the task at this time."""
        if task.ended_at is not None:
            heard = task.applied.get(verifier)
            if heard is not None and at > heard:
                yield "applied", f"a receipt had said at {heard} that it knows"
            if task.dead_by and at > task.dead_by:
                yield "past a bound", f"dead everywhere by {task.dead_by}"
            if at > task.ended_at + BOUND:
                yield "past a bound", f"ended by {task.ended_at}"
        if task.suspended_at is not None and at > task.suspended_at + BOUND:
            yield "past a bound", f"suspended by {task.suspended_at}"
        for start, end in self.cuts.get(verifier, ()):
            if at > start + BOUND and (end is None or at < end):
                yield "cut off", f"since {start}"

    def check(self):
        with self.lock:
            ensure(self.wrong is None, self.wrong)

    def prove(self):
        """A test that can't fail proves nothing: made-up verdicts that must be noticed."""
        counts = dict(self.counts)
        ended = self.of("ended")
        ensure(ended, "nothing has ended")
        for verifier, task, at in self._impossible(ended[0]):
            self.wrong = None
            self.judge(verifier, task.id, at, "ok")
            ensure(self.wrong is not None, f"nobody noticed that {verifier} accepted {task.id}")
        self.wrong, self.counts = None, counts

    def _impossible(self, task):
        yield "nobody", task, task.ended_at + BOUND + 1
        heard = next((one for one in self.of("ended") if one.applied), None)
        ensure(heard is not None, "no receipt named anybody")
        name, at = next(iter(heard.applied.items()))
        yield name, heard, at + 1


