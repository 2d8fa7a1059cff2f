"""A chat request on a socket of its own, to read (or not) byte by byte."""

import json
import socket
import time

import serving


class RawChat:
    """Sends a chat request; what comes back is read when asked for."""

    def __init__(self, server, receive_buffer=0, **fields):
        body = {"model": "default", "stream": True, "max_tokens": 100,
                "messages": [{"role": "user", "content": "Go on."}]}
        body.update(fields)
        data = json.dumps(body).encode()
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF,
                                   receive_buffer)
        self.socket.settimeout(30)
        self.socket.connect(("127.0.0.1", server.nginx.port))
        self.socket.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {serving.KEY}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
        self.data = b""

    def read_until(self, text, seconds=30):
        """Reads until text has come; False when the reply ended before."""
        until = time.monotonic() + seconds
        while text not in self.data:
            if time.monotonic() > until:
                raise TimeoutError(f"{text} did not come")
            part = self.socket.recv(65536)
            if not part:
                return False
            self.data += part
        return True

    def read_events(self, n):
        """Reads until n events have come."""
        while self.data.count(b"data: ") < n:
            part = self.socket.recv(65536)
            if not part:
                raise EOFError("the stream ended")
            self.data += part

    def read_all(self):
        while part := self.socket.recv(65536):
            self.data += part
        return self.data

    def close(self):
        self.socket.close()
