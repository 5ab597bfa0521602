//! OPC UA sessions against servers: our simulated one, and asyncua as a foreign one.

mod asyncua;
mod link;
mod session;

#[cfg(feature = "sim")]
mod collecting;
#[cfg(feature = "sim")]
mod recovery;
#[cfg(feature = "sim")]
mod secure;
#[cfg(feature = "sim")]
mod simulated;
