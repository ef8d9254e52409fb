"""A worker outside the service: leases orders over gRPC, processes and reports them.

    pip install grpcio grpcio-tools
    python3 worker.py --server 127.0.0.1:50051 --limit 10

Replace `process`. The rest is the protocol (proto/order/v1/worker.proto): a lease that is
kept alive by heartbeats, a report per order, and a release when the worker is stopped, so
that no order waits and no attempt is burnt. Exit code 0: stopped by SIGTERM or SIGINT;
1: the service refuses this worker.
"""

import argparse
import importlib.resources
import pathlib
import random
import signal
import sys
import tempfile
import threading
import time

import grpc
from grpc_tools import protoc

# How long a call may take, beyond the time it waits for work.
CALL_TIMEOUT_S = 10
WAIT_S = 20

# Not now; the same call may succeed later. Repeating any of them is harmless.
TRANSIENT = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


class Rejected(Exception):
    """The order will never work: it is FAILED without more attempts."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def process(order, traceparent):
    """Your business. Raise Rejected to fail the order for good; any other exception is
    retried later. An order can come more than once, so give other systems its order_id as
    their idempotency key. If traceparent is not empty, send it along as the header of that
    name, and their work appears in the trace of the order.
    """
    print(f"{order.order_id} {order.money.minor_units} {order.money.currency}", flush=True)


def load_contract():
    """Generates the gRPC code from proto/ into a directory that is gone afterwards."""
    root = pathlib.Path(__file__).resolve().parent.parent / "proto"
    google = importlib.resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as out:
        args = [f"-I{root}", f"-I{google}", f"--python_out={out}", f"--grpc_python_out={out}"]
        files = [str(root / "order/v1" / name) for name in ("order.proto", "worker.proto")]
        if protoc.main(["protoc", *args, *files]) != 0:
            sys.exit(1)
        sys.path.insert(0, out)
        from order.v1 import worker_pb2, worker_pb2_grpc
    return worker_pb2, worker_pb2_grpc


class Worker:
    def __init__(self, pb, stub, limit, lease_s):
        self.pb, self.stub, self.limit, self.lease_s = pb, stub, limit, lease_s
        self.stopping = threading.Event()
        self.leasing = None
        # The jobs in hand, by their tokens: shared with the heartbeat.
        self.lock = threading.Lock()
        self.held = {}

    def stop(self, *_signal):
        self.stopping.set()
        # Whatever a call that is hung up has leased, the service takes back.
        if self.leasing:
            self.leasing.cancel()

    def run(self):
        threading.Thread(target=self.beat, daemon=True).start()
        n_failures = 0
        while not self.stopping.is_set():
            try:
                jobs = self.lease()
                n_failures = 0
            except grpc.FutureCancelledError:
                break
            except grpc.RpcError as error:
                if error.code() not in TRANSIENT:
                    raise
                print(f"waiting for the service: {error.details()}", file=sys.stderr)
                n_failures += 1
                self.stopping.wait(backoff_s(n_failures))
                continue
            self.work(jobs)
        self.release()

    def lease(self):
        request = self.pb.LeaseRequest(limit=self.limit)
        request.lease.FromSeconds(self.lease_s)
        request.wait.FromSeconds(WAIT_S)
        self.leasing = self.stub.Lease.future(request, timeout=WAIT_S + CALL_TIMEOUT_S)
        if self.stopping.is_set():
            self.leasing.cancel()
        jobs = self.leasing.result().jobs
        with self.lock:
            self.held = {key(job.token): job.token for job in jobs}
        return jobs

    def work(self, jobs):
        done, failed = [], []
        for job in jobs:
            if self.stopping.is_set():
                break
            if not self.is_held(job.token):
                continue
            try:
                process(job.order, job.traceparent)
                done.append(job.token)
            except Exception as error:
                failure = self.pb.FailRequest.Failure(token=job.token)
                failure.permanent = isinstance(error, Rejected)
                failure.cause.code = error.code if failure.permanent else "WORKER_ERROR"
                failure.cause.message = (str(error) or type(error).__name__)[:500]
                failed.append(failure)
        if done:
            self.report(self.stub.Complete, self.pb.CompleteRequest(tokens=done), done)
        if failed:
            tokens = [failure.token for failure in failed]
            self.report(self.stub.Fail, self.pb.FailRequest(failures=failed), tokens)

    def report(self, rpc, request, tokens):
        """Reports until the service has answered or the leases have surely run out."""
        deadline = time.monotonic() + self.lease_s
        n_failures = 0
        while time.monotonic() < deadline:
            try:
                results = rpc(request, timeout=CALL_TIMEOUT_S).results
                if all(result.outcome != result.OUTCOME_FAILED for result in results):
                    break
            except grpc.RpcError as error:
                if error.code() not in TRANSIENT:
                    raise
            n_failures += 1
            time.sleep(backoff_s(n_failures))
        self.drop(tokens)

    def beat(self):
        """Keeps the leases alive, three times as often as needed, and drops lost jobs."""
        while True:
            time.sleep(self.lease_s / 3)
            with self.lock:
                request = self.pb.HeartbeatRequest(tokens=self.held.values())
            if not request.tokens:
                continue
            request.lease.FromSeconds(self.lease_s)
            try:
                self.drop(self.stub.Heartbeat(request, timeout=self.lease_s / 3).lost)
            except grpc.RpcError as error:
                # The next beat may get through; if none does, the reports are STALE.
                print(f"heartbeat failed: {error.details()}", file=sys.stderr)

    def release(self):
        with self.lock:
            tokens = list(self.held.values())
        if not tokens:
            return
        try:
            request = self.pb.ReleaseRequest(tokens=tokens)
            released = self.stub.Release(request, timeout=CALL_TIMEOUT_S).released
            print(f"gave {released} orders back", file=sys.stderr)
        except grpc.RpcError as error:
            print(f"the leases will run out: {error.details()}", file=sys.stderr)

    def is_held(self, token):
        with self.lock:
            return key(token) in self.held

    def drop(self, tokens):
        with self.lock:
            for token in tokens:
                self.held.pop(key(token), None)


def key(token):
    return token.order_id, token.attempt


def backoff_s(n_failures):
    """Full jitter, up to 10 s: workers that lost the service do not come back as one."""
    return random.uniform(0, min(10, 0.2 * 2**n_failures))


def main():
    parser = argparse.ArgumentParser(description="An example worker.")
    parser.add_argument("--server", default="127.0.0.1:50051", help="HOST:PORT of the gRPC API")
    parser.add_argument("--limit", type=int, default=10, help="orders per lease, 1 to 1000")
    parser.add_argument("--lease", type=int, default=30, help="seconds, 1 to 3600")
    args = parser.parse_args()
    pb, pb_grpc = load_contract()
    with grpc.insecure_channel(args.server) as channel:
        worker = Worker(pb, pb_grpc.WorkerServiceStub(channel), args.limit, args.lease)
        signal.signal(signal.SIGTERM, worker.stop)
        signal.signal(signal.SIGINT, worker.stop)
        try:
            worker.run()
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")


if __name__ == "__main__":
    main()
