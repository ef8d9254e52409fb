"""Subscribes to one order over the WebSocket and prints the first message about it.

Uses nothing but the standard library: watch_order.py HOST PORT ORDER_ID
"""

import base64
import os
import socket
import struct
import sys

# An event takes milliseconds; longer than this means that none will come.
TIMEOUT_S = 20


def handshake(connection, stream, host, port):
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sendall(
        (
            f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n"
        ).encode()
    )
    status = stream.readline()
    while stream.readline().strip():
        pass
    if b" 101 " not in status:
        sys.exit(f"no upgrade: {status.decode(errors='replace').strip()}")


def send_text(connection, text):
    payload = text.encode()
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    # One final text frame; order ids are shorter than the 126 bytes of the short form.
    connection.sendall(bytes([0x81, 0x80 | len(payload)]) + mask + masked)


def receive_text(stream):
    while True:
        head = stream.read(2)
        if len(head) < 2:
            sys.exit("the connection ended without a message")
        opcode, length = head[0] & 0x0F, head[1] & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", stream.read(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", stream.read(8))
        payload = stream.read(length)
        if opcode == 0x1:
            return payload.decode()
        if opcode == 0x8:
            sys.exit(f"closed: {payload!r}")


def main():
    host, port, order_id = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    with socket.create_connection((host, port), timeout=TIMEOUT_S) as connection:
        stream = connection.makefile("rb")
        handshake(connection, stream, host, port)
        send_text(connection, order_id)
        print(receive_text(stream))


if __name__ == "__main__":
    main()
