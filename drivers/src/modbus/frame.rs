//! How a PDU travels: with a header over TCP, with unit and checksum on a serial line.

pub mod mbap;
pub mod rtu;
