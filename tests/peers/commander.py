"""Plays the cores that give commands over MQTT, each in its own words (paho-mqtt).

--play names a JSON file, a list of `{"topic", "payload", "answers"}`: each payload is published at QoS 1, and the next when so many
messages as there are `answers` have come on these topics. Prints `{"ready": true}` once it has subscribed to all topics of answers, then for
each exchange the list of answers as `{"topic", "payload", "retain"}`.
"""

import argparse
import json
import pathlib
import queue

import paho.mqtt.client as mqtt


def say(line):
    print(json.dumps(line), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--play", required=True)
    args = parser.parse_args()
    play = json.loads(pathlib.Path(args.play).read_text())
    topics = sorted({topic for exchange in play for topic in exchange["answers"]})
    messages, subscribed = queue.Queue(), queue.Queue()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="commander")
    client.on_connect = lambda client, *_: client.subscribe([(topic, 1) for topic in topics])
    client.on_subscribe = lambda *_: subscribed.put(True)
    client.on_message = lambda _client, _data, message: messages.put(message)
    client.connect("127.0.0.1", args.port)
    client.loop_start()
    subscribed.get(timeout=20)
    say({"ready": True})
    for exchange in play:
        client.publish(exchange["topic"], exchange["payload"], qos=1).wait_for_publish(20)
        answers = []
        wanted = list(exchange["answers"])
        while wanted:
            message = messages.get(timeout=30)
            if message.topic not in wanted:
                continue
            wanted.remove(message.topic)
            answers.append({"topic": message.topic, "payload": message.payload.decode(), "retain": message.retain})
        say(answers)
    client.loop_stop()


if __name__ == "__main__":
    main()
