//! Serial ports: settings, opening, RS-485 direction and latency.

use std::io;

use tokio_serial::{DataBits, SerialPortBuilderExt, SerialStream, StopBits};

use super::link::Transport;
use super::pace::Pace;
use crate::SessionError;

/// The bit that makes the number of ones even or odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parity {
    /// None; the specification asks for a second stop bit then, few devices do.
    None,
    /// Odd.
    Odd,
    /// Even, the default of the specification.
    Even,
}

/// A serial port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialSettings {
    /// `/dev/ttyUSB0`, or a name that stays: `/dev/serial/by-id/…`.
    pub port: String,
    /// Bits a second.
    pub baud: u32,
    /// 7 or 8; RTU needs 8.
    pub data_bits: u8,
    /// Parity.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
    /// Whether the kernel switches the direction of the RS-485 driver by RTS. Adapters that do it by
    /// themselves, as nearly all with USB, need nothing.
    pub rs485: bool,
}

impl SerialSettings {
    /// 19200 8E1, as the specification has it.
    pub fn new(port: impl Into<String>) -> Self {
        Self {
            port: port.into(),
            baud: 19_200,
            data_bits: 8,
            parity: Parity::Even,
            stop_bits: 1,
            rs485: false,
        }
    }

    /// The time of bytes and silences.
    pub fn pace(&self) -> Pace {
        let parity = u32::from(self.parity != Parity::None);
        let bits = 1 + u32::from(self.data_bits) + parity + u32::from(self.stop_bits);
        Pace::of(self.baud, bits)
    }

    /// Opens the port for us alone.
    ///
    /// # Errors
    /// There is no such port, another program holds it, or it cannot do what is asked.
    pub fn open(&self) -> io::Result<SerialStream> {
        let data_bits = match self.data_bits {
            7 => DataBits::Seven,
            _ => DataBits::Eight,
        };
        let stop_bits = match self.stop_bits {
            2 => StopBits::Two,
            _ => StopBits::One,
        };
        let parity = match self.parity {
            Parity::None => tokio_serial::Parity::None,
            Parity::Odd => tokio_serial::Parity::Odd,
            Parity::Even => tokio_serial::Parity::Even,
        };
        let stream = tokio_serial::new(&self.port, self.baud)
            .data_bits(data_bits)
            .stop_bits(stop_bits)
            .parity(parity)
            .open_native_async()?;
        if self.rs485 {
            ioctl::switch_direction(&stream)?;
        }
        // Not every port has it; those without only answer later.
        if let Err(error) = ioctl::lower_latency(&stream) {
            tracing::debug!(port = %self.port, error = %error, "the port has no low-latency mode");
        }
        Ok(stream)
    }
}

impl SerialSettings {
    /// As [`SerialSettings::open`], for a line or a caller.
    pub(crate) fn connect(&self) -> Result<Box<dyn Transport>, SessionError> {
        match self.open() {
            Ok(stream) => Ok(Box::new(stream)),
            Err(source) => Err(SessionError::Connect {
                address: self.port.clone(),
                source,
            }),
        }
    }
}

/// As `9600 8E1`.
impl std::fmt::Display for SerialSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parity = match self.parity {
            Parity::None => 'N',
            Parity::Odd => 'O',
            Parity::Even => 'E',
        };
        write!(
            f,
            "{} {}{parity}{}",
            self.baud, self.data_bits, self.stop_bits
        )
    }
}

/// What the serial crates lack. The only place of this crate where the compiler has to take our word.
#[allow(unsafe_code)]
pub(crate) mod ioctl {
    use std::io;
    use std::os::fd::AsRawFd;

    use nix::libc;

    /// `struct serial_rs485` of `linux/serial.h`; 32 bytes in every version of the kernel.
    #[repr(C)]
    pub(super) struct Rs485 {
        flags: u32,
        delay_before_send_ms: u32,
        delay_after_send_ms: u32,
        reserved: [u32; 5],
    }

    const ENABLED: u32 = 1;
    const RTS_ON_SEND: u32 = 2;

    /// `struct serial_struct` of `linux/serial.h`, as far as it is used; it is shorter than this on
    /// every architecture.
    #[repr(C, align(8))]
    pub(super) struct Serial {
        kind_line_port_irq: [i32; 4],
        flags: i32,
        rest: [i32; 43],
    }

    const ASYNC_LOW_LATENCY: i32 = 1 << 13;

    nix::ioctl_write_ptr_bad!(set_rs485, libc::TIOCSRS485, Rs485);
    nix::ioctl_read_bad!(get_serial, libc::TIOCGSERIAL, Serial);
    nix::ioctl_write_ptr_bad!(set_serial, libc::TIOCSSERIAL, Serial);

    nix::ioctl_read_bad!(get_settings, libc::TCGETS2, libc::termios2);

    /// The rate that a port is set to, also one that has no name.
    #[cfg(feature = "sim")]
    pub(crate) fn baud(port: &impl AsRawFd) -> io::Result<u32> {
        // SAFETY: all zeros are such a struct.
        let mut settings: libc::termios2 = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open, since `port` is borrowed, and the kernel fills its own struct.
        unsafe { get_settings(port.as_raw_fd(), &raw mut settings)? };
        Ok(settings.c_ospeed)
    }

    /// Lets the kernel raise RTS while it sends.
    pub(super) fn switch_direction(port: &impl AsRawFd) -> io::Result<()> {
        let wanted = Rs485 {
            flags: ENABLED | RTS_ON_SEND,
            delay_before_send_ms: 0,
            delay_after_send_ms: 0,
            reserved: [0; 5],
        };
        // SAFETY: the descriptor is open, since `port` is borrowed, and the kernel reads no more than
        // the 32 bytes of its struct, which ours has.
        let set = unsafe { set_rs485(port.as_raw_fd(), &raw const wanted) };
        set.map(drop).map_err(|error| {
            let message = format!("the port cannot switch the direction of RS-485 ({error}); set rs485 = false where the adapter does it by itself");
            io::Error::new(io::Error::from(error).kind(), message)
        })
    }

    /// Asks for bytes at once instead of every 16 ms, which is what USB adapters do.
    pub(super) fn lower_latency(port: &impl AsRawFd) -> io::Result<()> {
        let mut serial = Serial {
            kind_line_port_irq: [0; 4],
            flags: 0,
            rest: [0; 43],
        };
        // SAFETY: the descriptor is open, since `port` is borrowed, and our struct is longer than the
        // kernel's, which it fills and then reads.
        unsafe {
            get_serial(port.as_raw_fd(), &raw mut serial)?;
            serial.flags |= ASYNC_LOW_LATENCY;
            set_serial(port.as_raw_fd(), &raw const serial)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_counts_every_bit() {
        let mut settings = SerialSettings::new("/dev/ttyS0");
        settings.baud = 9_600;
        // 11 bits: start, eight, parity, stop.
        assert_eq!(settings.pace(), Pace::of(9_600, 11));
        settings.parity = Parity::None;
        assert_eq!(settings.pace(), Pace::of(9_600, 10));
    }

    #[tokio::test]
    async fn port_that_is_not_there_says_so() {
        let error = SerialSettings::new("/dev/serial/by-id/none")
            .open()
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
