"""Relays of octets that drop, delay, freeze, cut off and garble what passes, as they are told."""

import asyncio
import contextlib
import random
import threading

MODES = ("drop", "freeze", "delay", "truncate", "garble")


class Network:
    """All proxies of a world, on a thread of their own."""

    def __init__(self, seed):
        self.loop = asyncio.new_event_loop()
        self.dice = random.Random(seed)
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def tcp(self, to):
        """One in front of a local port; its own port is `at`."""
        return Proxy(self, lambda: asyncio.open_connection("127.0.0.1", to), None)

    def unix(self, path, to):
        """One at `path`, in front of another socket."""
        return Proxy(self, lambda: asyncio.open_unix_connection(to), path)

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def close(self):
        async def stop():
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


class Proxy:
    def __init__(self, network, dial, path):
        self.network, self.dial, self.mode = network, dial, "pass"
        self.writers = set()
        self.at = network.run(self._listen(path))

    async def _listen(self, path):
        if path is not None:
            await asyncio.start_unix_server(self._serve, path)
            return path
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return server.sockets[0].getsockname()[1]

    def set(self, mode):
        """From here on; connections that were harmed do not outlive the harm."""
        async def change():
            before, self.mode = self.mode, mode
            if mode == "drop" or (mode == "pass" and before != "pass"):
                for writer in list(self.writers):
                    writer.transport.abort()

        self.network.run(change())

    async def _serve(self, reader, writer):
        if self.mode == "drop":
            writer.transport.abort()
            return
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            far_reader, far_writer = await self.dial()
            ends = {writer, far_writer}
            self.writers |= ends
            try:
                pumps = [asyncio.ensure_future(self._pump(reader, far_writer)),
                         asyncio.ensure_future(self._pump(far_reader, writer))]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
            finally:
                self.writers -= ends
                for end in ends:
                    end.transport.abort()
        writer.transport.abort()

    async def _pump(self, reader, writer):
        dice = self.network.dice
        while octets := await reader.read(1 << 16):
            if self.mode == "delay":
                await asyncio.sleep(dice.random())
            while self.mode == "freeze":
                await asyncio.sleep(0.02)
            if self.mode == "truncate":
                writer.write(octets[:dice.randrange(len(octets))])
                return
            if self.mode == "garble":
                at = dice.randrange(len(octets))
                flipped = octets[at] ^ (1 << dice.randrange(8))
                octets = octets[:at] + bytes([flipped]) + octets[at + 1:]
            writer.write(octets)
            await writer.drain()
