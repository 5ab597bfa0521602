"""Serves the files of a directory over https, and misbehaves on request.

`/away` redirects to a host that nobody allowed, `/plain` to http, `/here/NAME` to `/NAME`, `/round` to itself, `/endless` never ends.
Prints `{"ready": true}`, then the path of each request.
"""

import argparse
import http.server
import json
import pathlib
import ssl


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cert", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--files", required=True)
    return parser.parse_args()


def handler(args):
    redirects = {"/away": "https://evil.example/layer", "/plain": "http://localhost/layer", "/round": "/round"}

    class Files(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            print(json.dumps({"path": self.path}), flush=True)
            target = redirects.get(self.path)
            if self.path.startswith("/here/"):
                target = self.path.removeprefix("/here")
            if target:
                self.send_response(302)
                self.send_header("Location", target)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if self.path == "/endless":
                self.send_response(200)
                self.end_headers()
                try:
                    while True:
                        self.wfile.write(b"x" * 65536)
                except OSError:
                    return
            path = pathlib.Path(args.files) / pathlib.Path(self.path).name
            body = path.read_bytes() if path.is_file() else b""
            self.send_response(200 if path.is_file() else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Files


if __name__ == "__main__":
    given = arguments()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", given.port), handler(given))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(given.cert, given.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print(json.dumps({"ready": True}), flush=True)
    server.serve_forever()
