"""Receives orders from the `http` processor, the way a shop's own system would.

Needs nothing but the standard library:

    python3 fulfilment_endpoint.py --secret whsec_...
    PROCESSOR=http FULFILMENT_URL=http://127.0.0.1:9000/ FULFILMENT_SECRET=whsec_... \\
        FULFILMENT_ALLOWED_NETWORKS=127.0.0.0/8 order-system

Each order arrives at least once. Two things make that safe here: the signature proves who
sent it, and the Idempotency-Key is stored in the same transaction as the effect, so that a
repeated order is answered like the first time and shipped once.
"""

import argparse
import base64
import hmac
import json
import os
import random
import sqlite3
import sys
import threading
import time
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY_LEN_MAX = 64 * 1024

# A request that is older, or from the future, may be one that somebody recorded.
TIMESTAMP_TOLERANCE_S = 300


def ship(database, order):
    """The effect. Replace this with yours, on the same connection and transaction."""
    database.execute("INSERT INTO shipments VALUES (?)", (order["order_id"],))


def is_signed(secrets, headers, body):
    """Checks the signature of Standard Webhooks; one right signature is enough."""
    signed = b".".join(
        (headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body)
    )
    given = [part[3:] for part in headers["webhook-signature"].split() if part.startswith("v1,")]
    right = [base64.b64encode(hmac.digest(secret, signed, "sha256")).decode() for secret in secrets]
    # Comparing in constant time tells an attacker nothing about how much was right.
    return any(hmac.compare_digest(a.encode(), b.encode()) for a in given for b in right)


class Shop:
    """What is remembered: which keys were seen, and what was shipped."""

    def __init__(self, path):
        self.lock = threading.Lock()
        self.database = sqlite3.connect(path, check_same_thread=False)
        with self.database:
            self.database.execute("CREATE TABLE IF NOT EXISTS keys (key TEXT PRIMARY KEY)")
            self.database.execute("CREATE TABLE IF NOT EXISTS shipments (order_id TEXT)")

    def ship_once(self, key, order):
        """Ships unless the key was seen before; returns whether it did."""
        with self.lock, self.database:
            new = self.database.execute("INSERT OR IGNORE INTO keys VALUES (?)", (key,)).rowcount
            if new:
                ship(self.database, order)
        return bool(new)


class Handler(BaseHTTPRequestHandler):
    # Connections are kept open for the next order, but not for ever.
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= BODY_LEN_MAX:
            self.close_connection = True
            return self.answer(413, "the body must have 1 to 65536 bytes")
        body = self.rfile.read(length)
        try:
            age_s = abs(time.time() - int(self.headers["webhook-timestamp"]))
            signed = is_signed(self.server.secrets, self.headers, body)
        except (AttributeError, TypeError, ValueError):
            return self.answer(400, "the webhook-* headers are missing or malformed")
        if not signed or age_s > TIMESTAMP_TOLERANCE_S:
            return self.answer(401, "the signature is wrong or too old")
        key = self.headers.get("Idempotency-Key")
        if not key:
            return self.answer(400, "the Idempotency-Key is missing")

        order = json.loads(body, parse_float=Decimal)["data"]
        text = "{order_id} {user_id} {amount} {currency} attempt {attempt}".format(**order)
        # A failure before the effect, and one after it: only the answer is lost then.
        fail_before, fail_after = (random.random() < self.server.fail_rate / 2 for _ in range(2))
        if fail_before:
            print(f"{text}: failed before shipping", flush=True)
            return self.answer(503, "try again", {"Retry-After": "1"})
        is_new = self.server.shop.ship_once(key, order)
        print(f"{text}: {'shipped' if is_new else 'was shipped before'}", flush=True)
        if fail_after:
            return self.answer(503, "try again", {"Retry-After": "1"})
        return self.answer(200, "")

    def answer(self, status, detail, headers=None):
        body = json.dumps({"status": status, "detail": detail}).encode() if detail else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if body:
            self.send_header("Content-Type", "application/problem+json")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        """One line per order is enough."""


def parse_secrets(text):
    try:
        secrets = [base64.b64decode(part.strip().removeprefix("whsec_"), validate=True)
                   for part in text.split(",")]
    except ValueError:
        secrets = []
    if not secrets or not all(24 <= len(secret) <= 64 for secret in secrets):
        sys.exit("the secret must be whsec_ and 24 to 64 bytes in base64; two with a comma")
    return secrets


def main():
    parser = argparse.ArgumentParser(description="An example fulfilment endpoint.")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--secret", default=os.environ.get("FULFILMENT_SECRET", ""),
                        help="whsec_..., or two with a comma; default: FULFILMENT_SECRET")
    parser.add_argument("--database", default="fulfilment.db", help="an SQLite file")
    parser.add_argument("--fail-rate", type=float, default=0.0,
                        help="share of requests answered with 503, 0 to 1")
    args = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    server.secrets = parse_secrets(args.secret)
    server.shop = Shop(args.database)
    server.fail_rate = args.fail_rate
    print(f"waiting for orders on http://127.0.0.1:{server.server_port}/", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
