"""What was acknowledged, and whether what is left agrees with it (contract line 2)."""

import hashlib
import struct
import threading

from daemons import until

END, EPOCH = 1, 5


class Wrong(Exception):
    """Something acknowledged is not so."""


def ensure(holds, why):
    if not holds:
        raise Wrong(why)


def wait_for(what, holds, seconds=30):
    ensure(until(holds, seconds, 0.02), f"waited {seconds} s in vain: {what}")


class Record:
    """A log record of 64 octets (decision 0001)."""

    def __init__(self, octets):
        ensure(len(octets) == 64 and octets[0] == 1, f"no record: {octets.hex()}")
        self.octets = octets
        self.kind = octets[1]
        self.sequence, self.at, self.bucket = struct.unpack(">QQI", octets[8:28])
        self.index = int.from_bytes(octets[28:33], "big")
        self.task = octets[40:56].hex()


class Dump:
    """What a store holds, by the `dump` example, over a copy."""

    def __init__(self, text):
        self.records, self.tasks, self.issued = [], {}, set()
        self.log = None
        for line in text.splitlines():
            verb, *words = line.split(" ")
            match verb:
                case "log":
                    self.log = bytes.fromhex(words[0]), int(words[1])
                case "record":
                    self.records.append(Record(bytes.fromhex(words[1])))
                case "task":
                    task, kind, bucket, index, state, bits = words
                    self.tasks[task] = {"kind": kind, "place": (int(bucket), int(index)),
                                        "state": state, "bits": bits}
                case "issued":
                    bucket, index, kind, serial = words
                    self.issued.add((int(bucket), int(index), kind, serial))
        # Opening the copy began an epoch in it, which the store itself knows nothing of.
        ensure(self.records and self.records[-1].kind == EPOCH, "the copy began no epoch")
        self.records.pop()


class Facts:
    """What was acknowledged to holders, and what was pushed to a watcher. Of one log."""

    def __init__(self):
        self.lock = threading.Lock()
        self.begun = {}  # task -> (bucket, index)
        self.holder = {}  # task -> process id
        self.ended = {}  # task -> position
        self.issued = set()  # (task, kind, serial)
        self.ending = set()  # tasks whose end was asked for: it may stand without an answer
        self.records = {}  # sequence -> octets
        self.heads = {}  # sequence -> hash there
        self.pushed = set()  # sequences that came to the watcher
        self.refusals = {}  # text -> how often
        self.wrong = None

    def hear(self, holder, line):
        """Takes in one line of a holder; a line that was cut off says nothing."""
        verb, *words = line.split(" ", 2)
        with self.lock:
            match verb, words:
                case "begun", [task, rest]:
                    place = tuple(int(word) for word in rest.split(" "))
                    if place in self.begun.values():
                        self.wrong = f"the place {place} was handed out twice"
                    self.begun[task] = place
                    self.holder[task] = holder
                case "issued", [task, rest]:
                    self.issued.add((task, *rest.split(" ")))
                case "ending", [task]:
                    self.ending.add(task)
                case "ended", [task, position]:
                    self.ended[task] = int(position)
                case "refused", _:
                    text = " ".join(words)[:160]
                    self.refusals[text] = self.refusals.get(text, 0) + 1

    def see(self, record):
        """Takes in one record that was pushed."""
        with self.lock:
            self.pushed.add(record.sequence)
            known = self.records.setdefault(record.sequence, record.octets)
            if known != record.octets:
                self.wrong = f"the sequence number {record.sequence} was used twice"

    def see_head(self, sequence, log_hash):
        with self.lock:
            if self.heads.setdefault(sequence, log_hash) != log_hash:
                self.wrong = f"two hashes of the log at {sequence}"

    def check_disk(self, dump):
        """The oracle, over what was on disk at the kill."""
        with self.lock:
            ensure(self.wrong is None, self.wrong)
            self._check_log(dump)
            self._check_tasks(dump)
            for task, kind, serial in self.issued:
                ensure((*self.begun[task], kind, serial) in dump.issued,
                       f"the {kind} {serial} of task {task} has no record")

    def _check_log(self, dump):
        log, generation = dump.log
        chain = hashlib.sha256(b"taskmint seed v1" + log + bytes([generation])).digest()
        for number, record in enumerate(dump.records, 1):
            ensure(record.sequence == number, f"record {record.sequence} is where {number} should be")
            # What was on disk at one kill must be there at every later one.
            known = self.records.setdefault(number, record.octets)
            ensure(known == record.octets, f"the sequence number {number} was used twice")
            chain = hashlib.sha256(b"taskmint link v1" + chain + record.octets).digest()
            ensure(self.heads.get(number, chain) == chain, f"another log was signed at {number}")
        pushed = max(self.pushed, default=0)
        ensure(pushed <= len(dump.records), f"record {pushed} was pushed, but it is not on disk")
        stored = max(self.records, default=0)
        ensure(stored <= len(dump.records), f"record {stored} was on disk, and is lost")
        signed = max(self.heads, default=0)
        ensure(signed <= len(dump.records), f"a head at {signed} was signed, but that is not on disk")

    def _check_tasks(self, dump):
        for task, place in self.begun.items():
            ensure(task in dump.tasks, f"the acknowledged begin of {task} is lost")
            ensure(dump.tasks[task]["place"] == place, f"task {task} is at another place")
        places = [task["place"] for task in dump.tasks.values()]
        ensure(len(places) == len(set(places)), "two tasks at one place")
        minted = {(bucket, index) for bucket, index, _, _ in dump.issued}
        for name, task in dump.tasks.items():
            ensure((task["state"] == "ended") == (task["bits"] == "Ended"),
                   f"half a commit: {name} is {task['state']}, its bits say {task['bits']}")
            ensure(task["place"] in minted, f"half a commit: {name} began without its issuance")
        ends = {}
        for record in dump.records:
            if record.kind == END:
                ensure(record.task not in ends, f"task {record.task} ended twice")
                ends[record.task] = record
        for task, position in self.ended.items():
            ensure(dump.tasks[task]["state"] == "ended", f"the acknowledged end of {task} reads live")
            record = ends.get(task.replace("-", ""))
            ensure(record is not None, f"the acknowledged end of {task} is not in the log")
            ensure(record.sequence <= position, f"the end of {task} is after its position {position}")
            ensure((record.bucket, record.index) == self.begun[task], f"another place ended: {task}")

    def live(self):
        """Tasks that were begun, and that nobody asked to end, by holder."""
        with self.lock:
            gone = self.ended.keys() | self.ending
            return {task: self.holder[task] for task in self.begun if task not in gone}


def tampered(text, facts):
    """Copies of a dump in which something acknowledged is not so: the oracle must notice each."""
    lines = text.splitlines()
    ended = next(task for task in facts.ended)
    serial = next(serial for task, kind, serial in facts.issued if task == ended)
    last = max(n for n, line in enumerate(lines) if line.startswith("record "))

    def each(change):
        return "\n".join(filter(None, map(change, lines)))

    yield "an end reads live", each(
        lambda line: line.replace(" ended Ended", " live Valid") if f"task {ended} " in line else line)
    yield "an end of half a commit", each(
        lambda line: line.replace(" ended Ended", " ended Valid") if f"task {ended} " in line else line)
    yield "a begin is lost", each(lambda line: None if f"task {ended} " in line else line)
    yield "a credential has no record", each(lambda line: None if serial in line else line)
    # The last record is the epoch of the copy, the one before it the newest of the store.
    yield "the newest record is lost", "\n".join(lines[:last - 1] + lines[last:])
    words = lines[last - 1].split(" ")
    words[2] = words[2][:32] + "ff" + words[2][34:]
    yield "a number is used twice", "\n".join(lines[:last - 1] + [" ".join(words)] + lines[last:])
