// A node-opcua server that is restarted, moved and cut off by the recovery tests: what asyncua_plant.py is for asyncua.
//
//     node plant.js PORT DIRECTORY PASSWORD [no-history] [swapped] [spare=N]
//
// The journal, the certificate, the options and the questions are those that are described there.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const readline = require("node:readline");
const opcua = require("node-opcua");

const NAMESPACE = "urn:millrace:plant";
const OTHER = "urn:millrace:other";
const APPLICATION = "urn:millrace:peer:plant";
const TICK_MS = 20;

async function certificates(folder) {
    const manager = new opcua.OPCUACertificateManager({
        rootFolder: folder,
        automaticallyAcceptUnknownCertificate: true,
    });
    await manager.initialize();
    return manager;
}

// "count microseconds", a line each.
class Journal {
    constructor(file) {
        this.file = file;
        this.entries = [];
        if (fs.existsSync(file)) {
            const lines = fs.readFileSync(file, "utf8").split("\n").filter(Boolean);
            this.entries = lines.map((line) => line.split(" ").map(Number));
        }
    }

    last() {
        return this.entries.at(-1) ?? [0, 0];
    }

    append(count, us) {
        this.entries.push([count, us]);
        fs.appendFileSync(this.file, `${count} ${us}\n`);
    }
}

class Plant {
    constructor(server, journal, password) {
        this.server = server;
        this.journal = journal;
        this.password = password;
        this.logins = 0;
        this.histories = 0;
        this.running = false;
        this.sessionsMax = 0;
    }

    furnish(options) {
        const space = this.server.engine.addressSpace;
        const uris = options.includes("swapped") ? [OTHER, NAMESPACE] : [NAMESPACE, OTHER];
        uris.forEach((uri) => space.registerNamespace(uri));
        const ours = space.getNamespace(NAMESPACE);
        const folder = ours.addObject({ organizedBy: space.rootFolder.objects, browseName: "Plant", nodeId: "s=Plant" });
        const add = (name, dataType, value) => {
            const variable = ours.addVariable({
                componentOf: folder,
                browseName: name,
                nodeId: `s=${name}`,
                dataType,
                ...(Array.isArray(value) && { valueRank: 1, arrayDimensions: [0] }),
                minimumSamplingInterval: 0,
            });
            const arrayType = opcua.VariantArrayType[Array.isArray(value) ? "Array" : "Scalar"];
            variable.setValueFromSource({ dataType, arrayType, value });
            return variable;
        };
        this.counter = add("Counter", "UInt32", 0);
        add("Fixed", "Float", 4.5);
        add("Array", "Int32", [10, 20, 30, 40]);
        const spare = options.find((option) => option.startsWith("spare="))?.slice(6) ?? 0;
        for (let count = 0; count < Number(spare); count++) add(`Spare${count}`, "UInt32", count);
        if (!options.includes("no-history")) this.keepHistory(space);
        if (this.journal.entries.length > 0) this.show(...this.journal.last());
    }

    // The journal is what the historian answers from.
    keepHistory(space) {
        const extractDataValues = (details, max, isReversed, _reverse, callback) => {
            this.histories++;
            const [from, until] = [details.startTime, details.endTime].map((time) => time.getTime() * 1000);
            const inside = this.journal.entries.filter(([, us]) => us >= from && us <= until);
            const found = (isReversed ? inside.reverse() : inside).slice(0, max || undefined);
            callback(null, found.map(([count, us]) => new opcua.DataValue(stamped(count, us))));
        };
        space.installHistoricalDataNode(this.counter, { historian: { push() {}, extractDataValues } });
    }

    show(count, us) {
        const { value, sourceTimestamp, sourcePicoseconds } = stamped(count, us);
        this.counter.setValueFromSource(value, opcua.StatusCodes.Good, sourceTimestamp, sourcePicoseconds);
    }

    count() {
        const [count, last] = this.journal.last();
        const us = Math.max(Date.now() * 1000, last + 1000);
        this.journal.append(count + 1, us);
        this.show(count + 1, us);
    }

    watch() {
        const { engine } = this.server;
        const note = () => {
            this.sessionsMax = Math.max(this.sessionsMax, engine.currentSessionCount);
        };
        engine.on("create_session", note);
        setInterval(() => {
            note();
            if (this.running) this.count();
        }, TICK_MS);
    }

    answer(asked) {
        if ("run" in asked) this.running = asked.run;
        for (let burst = asked.burst ?? 0; burst > 0; burst--) this.count();
        const answers = {
            sessions: this.server.engine.currentSessionCount,
            sessions_max: this.sessionsMax,
            logins: this.logins,
            histories: this.histories,
            counter: this.journal.last()[0],
        };
        return answers[asked.ask] ?? null;
    }
}

function stamped(count, us) {
    const value = { dataType: opcua.DataType.UInt32, value: count };
    const sourceTimestamp = new Date(Math.floor(us / 1000));
    return { value, sourceTimestamp, sourcePicoseconds: (us % 1000) * 100000, statusCode: opcua.StatusCodes.Good };
}

async function main() {
    const [port, directory, password, ...options] = process.argv.slice(2);
    const dir = path.resolve(directory);
    if (!fs.existsSync(path.join(dir, "cert.der"))) {
        fs.rmSync(path.join(dir, "server"), { recursive: true, force: true });
    }
    const own = await certificates(path.join(dir, "server"));
    const users = await certificates(path.join(dir, "users"));
    let plant;
    const isValidUser = (user, given) => {
        plant.logins++;
        return user === "gateway" && given === plant.password;
    };
    const server = new opcua.OPCUAServer({
        port: Number(port),
        hostname: "127.0.0.1",
        host: "127.0.0.1",
        resourcePath: "/plant",
        serverInfo: { applicationUri: APPLICATION, applicationName: { text: "Millrace test plant" } },
        securityPolicies: [opcua.SecurityPolicy.None, opcua.SecurityPolicy.Basic256Sha256],
        securityModes: [opcua.MessageSecurityMode.None, opcua.MessageSecurityMode.SignAndEncrypt],
        userManager: { isValidUser },
        serverCertificateManager: own,
        userCertificateManager: users,
    });
    plant = new Plant(server, new Journal(path.join(dir, "journal")), password);
    await server.initialize();
    plant.furnish(options);
    await server.start();
    fs.writeFileSync(path.join(dir, "cert.der"), server.getCertificate());
    // Only the test forgets it; node-opcua keeps its key elsewhere.
    fs.writeFileSync(path.join(dir, "key.pem"), "");
    plant.watch();
    say("ready");
    for await (const line of readline.createInterface({ input: process.stdin })) {
        say(JSON.stringify(plant.answer(JSON.parse(line))));
    }
    process.exit(0);
}

// Standard output is for answers; what the library has to say goes to standard error.
function say(line) {
    process.stdout.write(`${line}\n`);
}
console.log = console.info = console.warn = console.error;

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
