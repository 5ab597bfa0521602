"""A host application of Sparkplug: writes down what it is sent, and says that it is online, by paho and pysparkplug.

Each message becomes a line of JSON as in mqtt_tap.py. With --id it is a primary host: STATE retained in the form of 3.0,
with --legacy in that of 2.2; its will says that it is offline.
"""

import argparse
import json
import time

import paho.mqtt.client as mqtt
from mqtt_tap import content


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--id")
    parser.add_argument("--legacy", action="store_true")
    args = parser.parse_args()
    log = open(args.log, "a", buffering=1, encoding="utf-8")
    ready = False

    def state(online):
        if args.legacy:
            return f"STATE/{args.id}", "ONLINE" if online else "OFFLINE"
        return f"spBv1.0/STATE/{args.id}", json.dumps({"online": online, "timestamp": began})

    def on_connect(client, _userdata, _flags, _code, _properties):
        client.subscribe("spBv1.0/#", qos=1)

    def on_subscribe(client, _userdata, _mid, _codes, _properties):
        nonlocal ready
        if args.id:
            topic, text = state(True)
            client.publish(topic, text, qos=1, retain=True)
        if not ready:
            ready = True
            print(json.dumps({"ready": True}), flush=True)

    def on_message(_client, _userdata, message):
        line = {"at": time.time(), "topic": message.topic, "qos": message.qos, "retain": message.retain}
        line.update(content(message.topic, message.payload))
        log.write(json.dumps(line) + "\n")

    def on_disconnect(client, _userdata, _flags, _code, _properties):
        # The next session has a will of its own: paho must not reconnect by itself.
        client.disconnect()

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"host-{args.id or 'any'}")
    client.on_connect, client.on_disconnect = on_connect, on_disconnect
    client.on_subscribe, client.on_message = on_subscribe, on_message
    while True:
        # The timestamp of a session is in its will, too.
        began = int(time.time() * 1000)
        if args.id:
            topic, text = state(False)
            client.will_set(topic, text, qos=1, retain=True)
        try:
            client.connect("127.0.0.1", args.port, keepalive=10)
            client.loop_forever(retry_first_connection=False)
        except OSError:
            pass
        time.sleep(0.2)


if __name__ == "__main__":
    main()
