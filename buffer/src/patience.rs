//! Errors while reading: what they say of the data, and how long to wait before it is believed.
//!
//! A program that runs out of file descriptors or memory cannot read either, and neither can one whose
//! disk is away for a moment. None of that is damage: whoever reads tries again, and gives nothing up.

use std::io;
use std::time::Duration;

/// What an error while reading says of what was to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It is not there, or is shorter than it was: no other attempt will bring it.
    Gone,
    /// The device says that it cannot read it. Some say so of a bad sector, some while a cable is loose.
    Sick,
    /// It says nothing of the data: no descriptors, no memory, no permission, no answer.
    Passing,
}

impl Trouble {
    pub(crate) fn of(error: &io::Error) -> Self {
        use nix::errno::Errno;
        let sick = [Errno::EIO, Errno::EBADMSG, Errno::EUCLEAN].map(|e| e as i32);
        match (error.kind(), error.raw_os_error()) {
            (
                io::ErrorKind::NotFound
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::IsADirectory,
                _,
            ) => Trouble::Gone,
            (_, Some(code)) if sick.contains(&code) => Trouble::Sick,
            _ => Trouble::Passing,
        }
    }
}

/// What [`patiently`] waits between its attempts.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(400),
];

/// Reads something that can be done without: `None` where it is gone, or stays unreadable.
///
/// # Errors
/// One that says nothing of the data, after some attempts.
pub(crate) fn patiently<T>(mut read: impl FnMut() -> io::Result<T>) -> io::Result<Option<T>> {
    let mut pauses = PAUSES.into_iter();
    loop {
        let error = match read() {
            Ok(value) => return Ok(Some(value)),
            Err(error) => error,
        };
        let trouble = Trouble::of(&error);
        match (trouble, pauses.next()) {
            (Trouble::Gone, _) | (Trouble::Sick, None) => return Ok(None),
            (Trouble::Passing, None) => return Err(error),
            (_, Some(pause)) => std::thread::sleep(pause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(code: i32) -> (io::Result<Option<()>>, usize) {
        let mut tries = 0;
        let read = patiently(|| {
            tries += 1;
            Err(io::Error::from_raw_os_error(code))
        });
        (read, tries)
    }

    #[test]
    fn only_what_the_device_says_of_the_data_is_believed_in_the_end() {
        let (gone, tries) = failing(2);
        assert!(gone.unwrap().is_none() && tries == 1);
        let (sick, tries) = failing(5);
        assert!(sick.unwrap().is_none() && tries == 4);
        for passing in [4, 12, 13, 23, 24] {
            let (read, tries) = failing(passing);
            assert_eq!(read.unwrap_err().raw_os_error(), Some(passing));
            assert_eq!(tries, 4);
        }
    }

    #[test]
    fn what_comes_at_last_is_taken() {
        let mut tries = 0;
        let read = patiently(|| {
            tries += 1;
            match tries {
                3 => Ok(7),
                _ => Err(io::Error::from_raw_os_error(24)),
            }
        });
        assert_eq!(read.unwrap(), Some(7));
    }
}
