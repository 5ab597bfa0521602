//! Scans of a device that is not ours: who is there, at which settings, who it says it is, what can be read.

use std::sync::Arc;
use std::time::Duration;

use millrace_drivers::modbus::scan::{self, LineFound, LineSearch};
use millrace_drivers::modbus::{Parity, Sweep, Table, identify};
use millrace_tags::SystemClock;

use crate::functions::caller;
use crate::peer::{self, Peer, Way};
use crate::{TIMEOUT, UNIT};

/// Silent units cost this much each; the one that answers has it, too.
const SILENCE: Duration = Duration::from_secs(2);

/// Registers that the peer has.
const REGISTERS: u16 = 300;

const DEVICE_FAILURE: u8 = 4;

async fn is_found(peer: &Peer) {
    let name = peer.way.name();
    let mut units = Vec::new();
    let mut searching = caller(&peer.way, SILENCE);
    let asked = [UNIT - 1, UNIT, UNIT + 1];
    scan::find_units(&mut searching, &asked, SILENCE, &mut units, &mut |_| {})
        .await
        .unwrap();
    // For units that it does not have this peer answers exception 04.
    units.retain(|found| found.exception != Some(DEVICE_FAILURE));
    let ids: Vec<u8> = units.iter().map(|found| found.unit).collect();
    assert_eq!(ids, [UNIT], "{name}");
    assert_eq!(units[0].exception, None, "{name}");

    drop(searching);
    let mut caller = caller(&peer.way, TIMEOUT);
    let who = identify(&mut caller, UNIT).await.unwrap().unwrap();
    assert_eq!(who.objects[&0], "Millrace tests", "{name}");
    let sweep = Sweep {
        addresses: 0..=999,
        step: 10,
    };
    let read = sweep
        .run(&mut caller, UNIT, Table::Holding, &mut |_| {})
        .await
        .unwrap();
    assert_eq!(read.ranges, [0..=REGISTERS - 1], "{name}");
}

#[tokio::test]
async fn pymodbus_is_found_on_every_way() {
    let Some(program) = peer::pymodbus("pymodbus_server.py") else {
        return;
    };
    let values: Vec<String> = (0..REGISTERS).map(|value| value.to_string()).collect();
    let tables = format!("holding {}\n\n", values.join(" "));
    for start in [peer::on_tcp, peer::on_rtu_over_tcp, peer::on_line] {
        is_found(&start(&program, &tables)).await;
    }
    let peer = peer::on_line(&program, &tables);
    let Way::Rtu(port) = &peer.way else {
        panic!("not on a line")
    };
    // A pseudo-terminal passes bytes on at any rate: the first settings that are tried are found.
    let search = LineSearch {
        candidates: scan::candidates(port, &[9_600, 115_200], &[(Parity::None, 1)]),
        units: vec![UNIT],
        timeout: SILENCE,
        clock: Arc::new(SystemClock::new()),
    };
    let mut found = LineFound::default();
    search.run(&mut found, &mut |_| {}).await.unwrap();
    assert_eq!(found.settings.map(|settings| settings.baud), Some(9_600));
    assert_eq!(found.units.len(), 1);
    assert_eq!(found.units[0].unit, UNIT);
}
