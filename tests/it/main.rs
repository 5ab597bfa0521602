//! End-to-end tests as one binary: the program, foreign devices, a real broker, faults and crashes.

mod again;
mod bad_input;
mod bootstrap;
mod command_line;
mod commands;
mod demo;
mod devices;
mod field;
mod full;
mod harness;
mod layering;
mod ledger;
mod live;
mod meanings;
mod outage;
mod plant;
mod reload;
mod replay;
mod serial_line;
mod store;
mod stored;
mod systemd;
mod tape;
mod uplink;
mod uplinks;
mod write;
