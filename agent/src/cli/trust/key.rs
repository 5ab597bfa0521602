//! One key, without Enter.

use std::io::{IsTerminal, Read, Write};

use nix::sys::termios::{self, LocalFlags, SetArg, SpecialCharacterIndices};

/// Whether somebody sits there.
pub(super) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks, and says whether the answer is this key.
pub(super) fn pressed(question: &str, wanted: char) -> anyhow::Result<bool> {
    let mut stderr = std::io::stderr();
    let stdin = std::io::stdin();
    let usual = termios::tcgetattr(&stdin)?;
    let mut raw = usual.clone();
    raw.local_flags
        .remove(LocalFlags::ICANON | LocalFlags::ECHO);
    raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
    raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
    // What was typed before the question is no answer to it.
    termios::tcsetattr(&stdin, SetArg::TCSAFLUSH, &raw)?;
    let asked = write!(stderr, "{question}").and_then(|()| stderr.flush());
    let mut key = [0];
    let read = asked.and_then(|()| stdin.lock().read(&mut key));
    termios::tcsetattr(&stdin, SetArg::TCSADRAIN, &usual)?;
    writeln!(stderr)?;
    Ok(read? == 1 && char::from(key[0]).eq_ignore_ascii_case(&wanted))
}
