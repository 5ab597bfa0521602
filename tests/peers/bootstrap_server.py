"""A bootstrap service in the manner of mainflux 0.8 to 0.15: GET <base>/{external_id}, key in `Authorization`.

--reply names a file that is sent as the body of an admitted request; it is read at each request, so that a test can
change it. Requests are printed as JSON lines: {"path", "authorization", "status"}.
"""

import argparse
import http.server
import json
import pathlib


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--base", default="/things/bootstrap")
    parser.add_argument("--external-id", required=True)
    parser.add_argument("--external-key", required=True)
    parser.add_argument("--scheme", choices=["raw", "Thing", "Client"], default="Thing")
    parser.add_argument("--reply", required=True)
    return parser.parse_args()


def handler(args):
    expected = args.external_key if args.scheme == "raw" else f"{args.scheme} {args.external_key}"

    class Bootstrap(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            given = self.headers.get("Authorization", "")
            if self.path != f"{args.base}/{args.external_id}":
                status, body = 404, b'{"error":"not found"}'
            elif given != expected:
                status, body = (403 if given.startswith(args.scheme + " ") else 401), b'{"error":"authentication"}'
            else:
                status, body = 200, pathlib.Path(args.reply).read_bytes()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            print(json.dumps({"path": self.path, "authorization": given, "status": status}), flush=True)

        def log_message(self, *_):
            pass

    return Bootstrap


if __name__ == "__main__":
    given = arguments()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", given.port), handler(given))
    print(json.dumps({"ready": True}), flush=True)
    server.serve_forever()
