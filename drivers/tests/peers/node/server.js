// An OPC UA server made with node-opcua, for the driver's tests.
//
//     node server.js --port PORT --dir DIRECTORY [options]
//
//   --policies A,B        None, Basic256Sha256, Aes128_Sha256_RsaOaep, Aes256_Sha256_RsaPss; all by default
//   --modes A,B           None, Sign, SignAndEncrypt; all by default
//   --user NAME --password TEXT   one user; both can be changed while it runs
//   --no-anonymous        only users
//   --strict              only client certificates in DIRECTORY/clients/trusted/certs are let in
//   --cert FILE --key FILE        PEM; by default a certificate is made in DIRECTORY
//   --limit NAME=COUNT    an operation limit such as maxNodesPerRead=100; may be repeated
//   --max-sessions COUNT  further sessions are refused
//   --many COUNT          variables Many0, Many1, ...; 200 by default
//   --namespaces COUNT    foreign namespaces before ours, so that its index differs
//   --no-history          the counter keeps no history
//
// User certificates are trusted where they lie in DIRECTORY/users/trusted/certs (DER or PEM); node-opcua checks the
// signature of each X.509 user. The server's own certificate is written to DIRECTORY/cert.der.
//
// It says "ready" when it listens, and then answers one line of JSON to each line that it reads: {"set": [name, value]},
// {"status": [name, code]}, {"run": true}, {"password": text}, {"event": [text, severity]}, {"sessions": 0} (close them
// all), {"ask": "counter"}, {"ask": "sessions"}, {"ask": "sessions-max"} (the most that there were at once, since the
// start), {"ask": "unacknowledged"}. It ends when its input ends.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const readline = require("node:readline");
const { parseArgs } = require("node:util");
const opcua = require("node-opcua");

const { DataType, StatusCodes, VariantArrayType } = opcua;

const NAMESPACE = "urn:millrace:peer";
const APPLICATION = "urn:millrace:peer:server";
const TICK_MS = 20;

const NODES = {
    Counter: ["UInt32", 0],
    Fixed: ["Float", 4.5],
    Boolean: ["Boolean", true],
    SByte: ["SByte", -5],
    Byte: ["Byte", 250],
    Int16: ["Int16", -300],
    UInt16: ["UInt16", 60000],
    Int32: ["Int32", -(2 ** 31)],
    UInt32: ["UInt32", 2 ** 32 - 1],
    Int64: ["Int64", [0x80000000, 0]],
    UInt64: ["UInt64", [0xffffffff, 0xffffffff]],
    Float: ["Float", 0.1],
    Double: ["Double", 0.1],
    NaN: ["Double", NaN],
    String: ["String", "Füllstand"],
    DateTime: ["DateTime", new Date("2026-11-21T07:30:15Z")],
    Guid: ["Guid", "72962b91-fa75-4ae6-8d28-b404dc7daf63"],
    ByteString: ["ByteString", Buffer.from([1, 2])],
    XmlElement: ["XmlElement", "<pump/>"],
    NodeId: ["NodeId", opcua.coerceNodeId("i=2258")],
    QualifiedName: ["QualifiedName", { namespaceIndex: 0, name: "Pump" }],
    LocalizedText: ["LocalizedText", { text: "läuft", locale: "de" }],
    StatusCode: ["StatusCode", StatusCodes.BadSensorFailure],
    Array: ["Int32", [1, -2, 3]],
};

function options() {
    const text = { type: "string" };
    const flag = { type: "boolean", default: false };
    const { values } = parseArgs({
        options: {
            port: text,
            dir: text,
            policies: { ...text, default: "None,Basic256Sha256,Aes128_Sha256_RsaOaep,Aes256_Sha256_RsaPss" },
            modes: { ...text, default: "None,Sign,SignAndEncrypt" },
            user: text,
            password: text,
            cert: text,
            key: text,
            limit: { ...text, multiple: true, default: [] },
            "max-sessions": { ...text, default: "100" },
            many: { ...text, default: "200" },
            namespaces: { ...text, default: "0" },
            "no-anonymous": flag,
            "no-history": flag,
            strict: flag,
        },
    });
    return values;
}

async function certificates(folder, acceptUnknown) {
    const manager = new opcua.OPCUACertificateManager({
        rootFolder: folder,
        automaticallyAcceptUnknownCertificate: acceptUnknown,
    });
    await manager.initialize();
    return manager;
}

class Plant {
    constructor(server, given) {
        this.server = server;
        this.credentials = { user: given.user, password: given.password };
        this.counter = 0;
        this.running = false;
        this.sessionsMax = 0;
        this.nodes = {};
    }

    furnish(given) {
        const space = this.server.engine.addressSpace;
        for (let count = 0; count < Number(given.namespaces); count++) {
            space.registerNamespace(`urn:millrace:peer:foreign:${count}`);
        }
        const ours = space.registerNamespace(NAMESPACE);
        const folder = ours.addObject({ organizedBy: space.rootFolder.objects, browseName: "Plant", nodeId: "s=Plant" });
        const add = (name, [dataType, value]) => {
            const node = ours.addVariable({
                componentOf: folder,
                browseName: name,
                nodeId: `s=${name}`,
                dataType,
                ...(name === "Array" && { valueRank: 1, arrayDimensions: [0] }),
                // Like the machine that it stands for: never slower than the client asks.
                minimumSamplingInterval: 10,
                accessLevel: "CurrentRead | CurrentWrite",
                userAccessLevel: "CurrentRead | CurrentWrite",
            });
            node.setValueFromSource(this.variant(name, dataType, value));
            this.nodes[name] = { node, dataType };
        };
        for (const [name, typed] of Object.entries(NODES)) add(name, typed);
        for (let count = 0; count < Number(given.many); count++) add(`Many${count}`, ["UInt32", count]);
        if (!given["no-history"]) {
            space.installHistoricalDataNode(this.nodes.Counter.node, { maxOnlineValues: 100000 });
        }
        this.addStructures(ours, folder);
        this.addMethod(ours, folder);
    }

    /// Structures and an enumeration, as types.xml beside this file describes them.
    addStructures(ours, folder) {
        const space = this.server.engine.addressSpace;
        const types = space.getNamespaceIndex("urn:millrace:peer:types");
        const add = (name, dataType, value) => {
            const node = ours.addVariable({
                componentOf: folder,
                browseName: name,
                nodeId: `s=${name}`,
                dataType: dataType.nodeId,
                minimumSamplingInterval: 10,
                accessLevel: "CurrentRead | CurrentWrite",
                userAccessLevel: "CurrentRead | CurrentWrite",
            });
            node.setValueFromSource(value);
            this.nodes[name] = { node, dataType: value.dataType };
        };
        const structure = (dataType, fields) => ({
            dataType: "ExtensionObject",
            value: space.constructExtensionObject(dataType, fields),
        });
        const range = space.findDataType("Range");
        add("Range", range, structure(range, { low: 0, high: 1 }));
        const recipe = space.findDataType("Recipe", types);
        const steps = [
            { minutes: 5, temperature: 81.5 },
            { minutes: 12, temperature: 20 },
        ];
        add("Recipe", recipe, structure(recipe, { name: "PUR-7", mode: 2, steps }));
        add("PumpMode", space.findDataType("PumpMode", types), { dataType: "Int32", value: 2 });
    }

    /// Add(a, b): the sum; refuses negative numbers.
    addMethod(ours, folder) {
        const argument = (name) => ({ name, dataType: DataType.Double });
        const method = ours.addMethod(folder, {
            browseName: "Add",
            nodeId: "s=Add",
            inputArguments: [argument("a"), argument("b")],
            outputArguments: [argument("sum")],
        });
        method.bindMethod((inputs, _context, callback) => {
            const [a, b] = inputs.map((input) => input.value);
            if (a < 0 || b < 0) {
                callback(null, { statusCode: StatusCodes.BadOutOfRange });
                return;
            }
            const sum = { dataType: DataType.Double, value: a + b };
            callback(null, { statusCode: StatusCodes.Good, outputArguments: [sum] });
        });
    }

    variant(name, dataType, value) {
        const arrayType = name === "Array" ? VariantArrayType.Array : VariantArrayType.Scalar;
        return { dataType: DataType[dataType], arrayType, value };
    }

    write(name, value, statusCode = StatusCodes.Good) {
        const { node, dataType } = this.nodes[name];
        node.setValueFromSource(this.variant(name, dataType, value), statusCode, new Date());
    }

    watch() {
        const { engine } = this.server;
        const count = () => {
            this.sessionsMax = Math.max(this.sessionsMax, engine.currentSessionCount);
        };
        engine.on("create_session", count);
        setInterval(() => {
            count();
            if (this.running) this.write("Counter", ++this.counter);
        }, TICK_MS);
    }

    isUser(user, password) {
        const known = this.credentials;
        return known.user !== undefined && user === known.user && password === known.password;
    }

    async answer(asked) {
        if ("run" in asked) {
            this.running = asked.run;
        } else if ("set" in asked) {
            this.write(...asked.set);
        } else if ("status" in asked) {
            const [name, code] = asked.status;
            const { node } = this.nodes[name];
            node.setValueFromSource(node.readValue().value, opcua.getStatusCodeFromCode(code), new Date());
        } else if ("password" in asked) {
            this.credentials.password = asked.password;
        } else if ("event" in asked) {
            const [message, severity] = asked.event;
            this.server.engine.addressSpace.rootFolder.objects.server.raiseEvent("BaseEventType", {
                message: { dataType: DataType.LocalizedText, value: { text: message } },
                severity: { dataType: DataType.UInt16, value: severity },
            });
        } else if ("sessions" in asked) {
            for (const session of this.sessions()) {
                this.server.engine.closeSession(session.authenticationToken, true, "Terminated");
            }
        }
        switch (asked.ask) {
            case "counter":
                return this.counter;
            case "sessions":
                return this.server.engine.currentSessionCount;
            case "sessions-max":
                return this.sessionsMax;
            case "unacknowledged": {
                const subscriptions = this.sessions().flatMap((session) => session.publishEngine.subscriptions);
                return subscriptions.reduce((sum, each) => sum + each.getAvailableSequenceNumbers().length, 0);
            }
            default:
                return null;
        }
    }

    sessions() {
        return Object.values(this.server.engine._sessions);
    }
}

async function main() {
    const given = options();
    const dir = path.resolve(given.dir);
    const split = (text) => text.split(",");
    const clients = await certificates(path.join(dir, "clients"), !given.strict);
    const users = await certificates(path.join(dir, "users"), false);
    const operationLimits = Object.fromEntries(
        given.limit.map((limit) => limit.split("=")).map(([name, count]) => [name, Number(count)]),
    );
    let plant;
    const server = new opcua.OPCUAServer({
        port: Number(given.port),
        hostname: "127.0.0.1",
        host: "127.0.0.1",
        resourcePath: "/peer",
        nodeset_filename: [opcua.nodesets.standard, path.join(__dirname, "types.xml")],
        serverInfo: { applicationUri: APPLICATION, applicationName: { text: "Millrace test peer" } },
        securityPolicies: split(given.policies).map((name) => opcua.SecurityPolicy[name]),
        securityModes: split(given.modes).map((name) => opcua.MessageSecurityMode[name]),
        allowAnonymous: !given["no-anonymous"],
        userManager: { isValidUser: (user, password) => plant.isUser(user, password) },
        serverCertificateManager: clients,
        userCertificateManager: users,
        ...(given.cert && { certificateFile: given.cert, privateKeyFile: given.key }),
        maxConnectionsPerEndpoint: 200,
        serverCapabilities: {
            maxSessions: Number(given["max-sessions"]),
            operationLimits,
        },
    });
    plant = new Plant(server, given);
    await server.initialize();
    plant.furnish(given);
    await server.start();
    fs.writeFileSync(path.join(dir, "cert.der"), server.getCertificate());
    plant.watch();
    say("ready");
    for await (const line of readline.createInterface({ input: process.stdin })) {
        say(JSON.stringify(await plant.answer(JSON.parse(line))));
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
