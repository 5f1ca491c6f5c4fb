"""An independent watcher of the revocation log, over the agent's relay: keeps what was pushed."""

import hashlib
import os
import queue
import struct
import threading
import time

import grpc
from channel import channel
from maps import ended_in
from oracle import Record, Wrong, ensure
from taskmint.revocation.v1 import revocation_pb2 as api
from taskmint.revocation.v1.revocation_pb2_grpc import RevocationStub

class Follower:
    """Follows the log for as long as it runs, over all restarts of agent and server."""

    def __init__(self, path, facts):
        self.path, self.facts = path, facts
        self.log, self.generation, self.epoch = b"", 0, 0
        self.sequence, self.hash = 0, b""
        self.ended = set()  # places
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self):
        self.stop.set()
        self.thread.join(10)

    def _run(self):
        while not self.stop.is_set():
            try:
                with channel(self.path) as connection:
                    self._watch(RevocationStub(connection))
            except grpc.RpcError:
                # Killed, or not yet there.
                time.sleep(0.05)
            except Wrong as wrong:
                self.facts.wrong = f"the watcher: {wrong}"
                return

    def _watch(self, stub):
        asks = queue.Queue()
        asks.put(api.WatchRequest(open=api.Open(
            log_id=self.log, generation=self.generation, epoch=self.epoch,
            sequence=self.sequence, log_hash=self.hash, nonce=os.urandom(16), name="kill test")))
        frames = stub.Watch(iter(asks.get, None))
        try:
            for frame in frames:
                if self.stop.is_set():
                    return
                kind = frame.WhichOneof("frame")
                if kind == "checkpoint":
                    self._checkpoint(frame.checkpoint)
                elif kind == "delta":
                    self._delta(frame.delta)
                elif kind == "head":
                    self._head(frame.head.body)
                asks.put(api.WatchRequest(acknowledge=api.Acknowledge(
                    sequence=self.sequence, log_hash=self.hash)))
        finally:
            asks.put(None)
            frames.cancel()

    def _checkpoint(self, checkpoint):
        body = checkpoint.body
        ensure(body[:16] == b"taskmint ckpt v1", "no checkpoint")
        sequence, = struct.unpack(">Q", body[32:40])
        ensure(sequence >= self.sequence or not self.log, f"back from {self.sequence} to {sequence}")
        ended = set()
        for packed in checkpoint.maps:
            ended |= {(packed.bucket, index) for index in ended_in(packed.data)}
        lost = self.ended - ended
        ensure(not lost, f"ended places read live in the checkpoint at {sequence}: {lost}")
        # Read before the frame came, so that it covers every one of them.
        self.ended = ended
        self.log, self.generation = body[16:24], body[24]
        self.epoch, = struct.unpack(">I", body[28:32])
        self.sequence, self.hash = sequence, body[40:72]
        self.facts.see_head(sequence, self.hash)

    def _delta(self, delta):
        for at in range(0, len(delta.records), 64):
            record = Record(delta.records[at:at + 64])
            if record.sequence <= self.sequence:
                self.facts.see(record)
                continue
            ensure(record.sequence == self.sequence + 1,
                   f"record {record.sequence} after {self.sequence}")
            self.facts.see(record)
            self.sequence = record.sequence
            self.hash = hashlib.sha256(b"taskmint link v1" + self.hash + record.octets).digest()
            place = record.bucket, record.index
            if record.kind == 1:
                self.ended.add(place)
            ensure(record.kind not in (2, 3) or place not in self.ended, f"{place} came back")

    def _head(self, body):
        ensure(body[:16] == b"taskmint head v1", "no head")
        sequence, = struct.unpack(">Q", body[32:40])
        self.epoch, = struct.unpack(">I", body[28:32])
        self.facts.see_head(sequence, body[40:72])
        if sequence == self.sequence:
            ensure(body[40:72] == self.hash, f"the records up to {sequence} hash to something else")
