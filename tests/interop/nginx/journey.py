"""nginx between clients with tasks and a service; prints `ok NAME` or `FAIL NAME: why` for each check."""

import os
import pathlib
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time

from daemons import complain
from gate import NGINX, Client, Gate, Session, request, stop
from world import LIFE, PATIENCE, World, self_signed, until

failed = []


def check(name, holds, why=""):
    print(f"ok {name}" if holds else f"FAIL {name}: {str(why)[:600]!r}", flush=True)
    if not holds:
        failed.append(name)


def say(text):
    print(f"# {text}", flush=True)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


class Journey:
    def __init__(self, folder):
        self.world = World(folder)

    def begin(self):
        """Server and agent, nginx with its helper, and three clients with theirs."""
        self.world.set_up()
        heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        heard.bind(str(self.world.folder / "notify.sock"))
        heard.settimeout(PATIENCE)
        folder = self.world.folder / "svid"
        self.gate = Gate(self.world, folder)
        # nginx is not there yet: telling it fails, and is tried again.
        self.own = self.world.helper("svid", "--", *map(str, self.gate.command), "-s", "reload",
                                     NOTIFY_SOCKET=str(self.world.folder / "notify.sock"))
        complete = self.own.has("svid.pem", "key.pem", "bundle.pem", "crl.pem")
        check("the_helper_writes_certificate_key_bundle_and_lists", complete)
        check("the_service_manager_hears_that_the_files_are_there", heard.recv(64).strip() == b"READY=1")
        heard.close()
        modes = {name: oct(mode(folder / name)) for name in ("key.pem", "svid.pem", "bundle.pem", "crl.pem")}
        check("the_key_is_its_owners_alone", modes == {"key.pem": "0o600", "svid.pem": "0o644", "bundle.pem": "0o644",
                                                       "crl.pem": "0o644"}, modes)
        helpers = [self.world.helper(name, "--key-mode", "0640") for name in ("ann", "bob", "cleo")]
        for helper in helpers:
            helper.has("svid.pem", "key.pem", "bundle.pem")
        check("the_mode_of_the_key_is_as_it_was_asked_for", mode(helpers[0].folder / "key.pem") == 0o640)
        self.ann, self.bob, self.cleo = map(Client, helpers)
        self.gate.start()
        before = self.gate.workers()
        check("a_reload_that_failed_is_made_up_for", self.gate.reloaded(before), before)

    def who_comes_in(self):
        for name, port in (("list", self.gate.by_list), ("question", self.gate.by_question)):
            statuses = [client.ask(port) for client in (self.ann, self.bob, self.cleo)]
            check(f"clients_with_live_tasks_come_in_by_{name}", statuses == [200] * 3, statuses)
            ids, serial = self.ann.shown(port)
            own = ids == ["spiffe://nginx.test/workload"] and serial == self.own.serial()
            check(f"nginx_shows_the_svid_of_its_helper_by_{name}", own, (ids, serial))
            check(f"without_a_certificate_nobody_comes_in_by_{name}", self.stranger(port) == 400, self.stranger(port))
            status = self.stranger(port, "mallory")
            check(f"nor_with_one_of_another_authority_by_{name}", status == 400, status)
        connection = self.ann.connect(self.gate.by_question)
        posted = request(connection, "POST", b"x" * 100_000, {"Expect": "", "Range": "bytes=0-0"})
        connection.close()
        check("the_body_of_a_request_goes_to_the_service_and_not_with_the_question", posted == (200, "POST\n"), posted)

    def stranger(self, port, name=None):
        context = ssl.create_default_context(cafile=self.ann.helper.files() / "bundle.pem")
        context.check_hostname = False
        if name is not None:
            folder = self.world.folder
            if not (folder / f"{name}.pem").exists():
                self_signed(folder, name, name)
            context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
        connection = self.ann.connect(port, context)
        try:
            return request(connection)[0]
        finally:
            connection.close()

    def suspension(self):
        gate, task = self.gate, self.ann.helper.task()
        self.world.operator("task", "suspend", task, "--admin")
        since = time.monotonic()
        first = self.ann.ask(gate.by_question)
        check("a_suspended_task_is_refused_by_question_with_the_next_request", first == 403, first)
        times = self.ann.last_accepted(gate.by_list, 400, since, PATIENCE)
        check("a_suspended_task_is_refused_by_list_after_the_reload", times, times)
        if times:
            say(f"suspended: last accepted by list {times[0]:.0f} ms after, refused from {times[1]:.0f} ms on")
        lists = self.own.lists()
        held = self.ann.helper.serial() in lists and "Certificate Hold" in lists
        check("it_is_on_the_list_as_a_certificate_on_hold", held, lists)
        others = [self.bob.ask(port) for port in (gate.by_list, gate.by_question)]
        check("others_come_in_meanwhile", others == [200, 200], others)
        check("the_helper_of_a_suspended_task_waits", self.ann.helper.process.poll() is None)

        self.world.operator("task", "resume", task, "--admin")
        since = time.monotonic()
        first = self.ann.ask(gate.by_question)
        check("a_resumed_task_comes_in_by_question_with_the_next_request", first == 200, first)
        again = until(lambda: self.ann.ask(gate.by_list) == 200)
        check("a_resumed_task_comes_in_by_list_after_the_reload", again)
        say(f"resumed: accepted by list {(time.monotonic() - since) * 1000:.0f} ms after")
        # A worker with the old list may accept for a moment beside the new one.
        check("and_stays_so", gate.settled() and {self.ann.ask(gate.by_list) for _ in range(10)} == {200})

    def end(self):
        gate, task = self.gate, self.ann.helper.task()
        kept = {port: self.ann.connect(port) for port in (gate.by_list, gate.by_question)}
        opened = [request(connection)[0] for connection in kept.values()]
        # Said of both, so that the first can't be mistaken for a TLS library that never resumes.
        plain, ticket = Session(self.ann, gate.by_list), Session(self.ann, gate.by_ticket)
        first = [plain.ask(), ticket.ask()]
        second = [plain.ask(), ticket.ask()]
        check("no_session_is_resumed_as_the_guide_configures_nginx",
              first == [(200, False)] * 2 and second == [(200, False), (200, True)], (first, second))

        begun = time.monotonic()
        self.world.operator("task", "revoke", task, "--reason", "interop")
        since = time.monotonic()
        first = self.ann.ask(gate.by_question)
        asked = (time.monotonic() - since) * 1000
        check("an_ended_task_is_refused_by_question_with_the_next_request", first == 403, first)
        say(f"ended: refused by question {asked:.0f} ms after the end returned ({(since - begun) * 1000:.0f} ms)")
        status = request(kept[gate.by_question])[0]
        check("and_on_a_connection_that_was_open", opened == [200, 200] and status == 403, (opened, status))
        forged = self.ann.ask(gate.by_question, headers={"X-SSL-Client-Serial": self.bob.helper.serial()})
        check("and_with_a_serial_number_that_it_claims", forged == 403, forged)

        times = self.ann.last_accepted(gate.by_list, 400, since, PATIENCE)
        check("an_ended_task_is_refused_by_list_after_the_reload", times, times)
        if times:
            say(f"ended: last accepted by list {times[0]:.0f} ms after, refused from {times[1]:.0f} ms on")
        try:
            open_still = request(kept[gate.by_list])
        except OSError:
            open_still = None
        check("and_its_open_connection_was_closed_by_the_reload", open_still is None, open_still)
        plain, ticket = plain.ask(), ticket.ask()
        check("and_a_session_of_before_does_not_help", plain == (400, False), plain)
        check("which_it_would_with_session_tickets_as_the_guide_warns", ticket == (200, True), ticket)
        code = until(lambda: self.ann.helper.process.poll() is not None) and self.ann.helper.process.returncode
        check("the_helper_of_an_ended_task_ends_and_says_that_it_was_denied", code == 2, code)
        others = [self.bob.ask(port) for port in (gate.by_list, gate.by_question)]
        check("others_go_on", others == [200, 200], others)

    def killed(self):
        self.cleo.helper.process.kill()
        self.cleo.helper.process.wait()
        since = time.monotonic()
        times = self.cleo.last_accepted(self.gate.by_question, 403, since, PATIENCE)
        check("the_client_whose_holder_was_killed_is_refused_by_question", times, times)
        if times:
            say(f"holder killed: refused by question from {times[1]:.0f} ms on")
        times = self.cleo.last_accepted(self.gate.by_list, 400, since, PATIENCE)
        check("and_by_list", times, times)

    def rotation(self):
        """A new authority while somebody asks without a pause."""
        gate, bob = self.gate, self.bob
        before, own, refused, done = bob.helper.serial(), self.own.serial(), [], threading.Event()

        def steadily():
            asked = 0
            while not done.is_set():
                statuses = [bob.ask(port) for port in (gate.by_list, gate.by_question)]
                if statuses != [200, 200]:
                    refused.append(statuses)
                asked += 2
                time.sleep(0.02)
            say(f"{asked} requests during the rotation")

        def has_both(helper):
            return (helper.folder / "bundle.pem").read_text().count("BEGIN CERTIFICATE") == 2

        thread = threading.Thread(target=steadily)
        thread.start()
        try:
            workers = gate.workers()
            new = self.world.operator("authority", "prepare", "ca")["id"]
            told = until(lambda: has_both(self.own) and has_both(bob.helper)) and gate.reloaded(workers)
            check("nginx_is_told_of_a_new_authority_before_it_signs", told)
            self.world.operator("authority", "activate", new)
            renewed = until(lambda: self.own.serial() != own and bob.helper.serial() != before, PATIENCE + LIFE)
            shown = renewed and until(lambda: bob.shown(gate.by_list)[1] == self.own.serial())
            check("nginx_shows_its_renewed_svid", shown, (own, self.own.serial()))
            time.sleep(1)
        finally:
            done.set()
            thread.join()
        check("and_refused_nobody_meanwhile", not refused, refused[:5])
        check("there_are_lists_of_both_authorities", self.own.lists().count("Issuer: ") == 2, self.own.lists())
        # Its own helper is gone, and does not tell it of new authorities.
        self.ann.trusts = bob.helper
        status = self.ann.ask(gate.by_list)
        check("who_had_ended_under_the_old_one_stays_out", status == 400, status)

    def outage(self):
        gate, bob, server = self.gate, self.bob, self.world.processes["server"]
        stop(server)
        statuses = [bob.ask(gate.by_question) for _ in range(2)]
        check("while_the_server_hangs_nobody_comes_in_by_question", statuses == [500] * 2, statuses)
        status = bob.ask(gate.by_list)
        check("and_by_list_who_did_before", status == 200, status)
        server.send_signal(signal.SIGCONT)
        check("and_by_question_once_it_is_back", until(lambda: bob.ask(gate.by_question) == 200))
        server.kill()
        server.wait()
        statuses = {bob.ask(gate.by_question) for _ in range(50)}
        check("while_the_server_is_dead_nobody_comes_in_by_question", statuses == {500}, statuses)
        statuses = bob.ask(gate.by_list), self.ann.ask(gate.by_list)
        check("and_the_list_counts_on", statuses == (200, 400), statuses)
        self.world.start("server")
        check("it_comes_back_and_so_do_clients", until(lambda: bob.ask(gate.by_question) == 200))
        status = self.ann.ask(gate.by_question)
        check("and_who_had_ended_stays_out", status == 403, status)

    def another_helper(self):
        """By signal, with the other way to say whom."""
        self.own.process.terminate()
        check("a_helper_that_is_told_to_ends_well", self.own.process.wait(10) == 0)
        check("and_leaves_the_files", (self.own.folder / "key.pem").exists())
        before = self.own.serial()
        owner = f"{os.getuid()}:{os.getgid()}"
        self.own = self.world.helper("svid", "--pid-file", str(self.gate.folder / "nginx.pid"), "--owner", owner)
        check("another_goes_on_with_the_folder", until(lambda: self.own.serial() != before), before)
        shown = until(lambda: self.bob.shown(self.gate.by_list)[1] == self.own.serial())
        check("and_nginx_shows_what_it_brought_after_a_signal", shown)
        folders = [path.name for path in self.own.folder.iterdir() if path.name.startswith(".v-")]
        check("no_old_files_pile_up", len(folders) <= 2, folders)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = pathlib.Path(sys.argv[1])
    said = subprocess.run([NGINX, "-v"], capture_output=True, text=True, check=True)
    say(said.stderr.strip())
    journey = Journey(folder)
    try:
        for part in ("begin", "who_comes_in", "suspension", "end", "killed", "outage", "rotation", "another_helper"):
            getattr(journey, part)()
    except BaseException:
        failed.append("an exception")
        raise
    finally:
        if failed:
            complain(journey.world.logs)
        journey.world.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
