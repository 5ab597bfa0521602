// A node-opcua server with a tank whose level raises an alarm above 50.
//
//     node alarms.js PORT
//
// It says "ready" when it listens, then answers true to each line of JSON that it reads: the level.
"use strict";

const readline = require("node:readline");
const opcua = require("node-opcua");

function furnish(server) {
    const space = server.engine.addressSpace;
    space.installAlarmsAndConditionsService();
    const ours = space.registerNamespace("urn:millrace:alarms");
    const objects = space.rootFolder.objects;
    const tank = ours.addObject({
        organizedBy: objects,
        browseName: "Tank",
        nodeId: "s=Tank",
        eventSourceOf: objects.server,
    });
    const level = ours.addVariable({
        componentOf: tank,
        browseName: "Level",
        nodeId: "s=Level",
        dataType: "Double",
        eventSourceOf: tank,
    });
    level.setValueFromSource({ dataType: opcua.DataType.Double, value: 0 });
    ours.instantiateExclusiveLimitAlarm("ExclusiveLimitAlarmType", {
        browseName: "LevelAlarm",
        conditionName: "high level",
        organizedBy: tank,
        conditionSource: level,
        inputNode: level,
        highHighLimit: 1000,
        highLimit: 50,
        lowLimit: -1000,
        lowLowLimit: -2000,
    });
    return level;
}

async function main() {
    const server = new opcua.OPCUAServer({
        port: Number(process.argv[2]),
        hostname: "127.0.0.1",
        host: "127.0.0.1",
        securityPolicies: [opcua.SecurityPolicy.None],
        securityModes: [opcua.MessageSecurityMode.None],
    });
    await server.initialize();
    const level = furnish(server);
    await server.start();
    say("ready");
    for await (const line of readline.createInterface({ input: process.stdin })) {
        level.setValueFromSource({ dataType: opcua.DataType.Double, value: JSON.parse(line) });
        say("true");
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
