//! A small file system of its own for a gateway's data: it can be filled, and made read-only, while the agent runs.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::process::Process;
use crate::wait::{STEP, wait_for};

/// A tmpfs on a directory, in a mount namespace that only the programs see that are started in it.
#[derive(Debug)]
pub struct SmallDisk {
    /// Keeps the namespace.
    holder: Process,
    pid: String,
    directory: PathBuf,
}

impl SmallDisk {
    /// Mounts so many mebibytes on `directory`; `None`, with a message, where this machine lets nobody mount in a
    /// user namespace.
    ///
    /// # Errors
    /// When it may, and does not work.
    pub fn mount(directory: &Path, mebibytes: u32) -> Result<Option<SmallDisk>> {
        std::fs::create_dir_all(directory)?;
        let own = |script: &str| {
            let mut command = Command::new("unshare");
            command.args(["-rm", "sh", "-c", script, "sh"]);
            command.arg(directory).stdout(Stdio::null());
            command
        };
        let mut trial = own("mount -t tmpfs none \"$1\"");
        let allowed = trial.stderr(Stdio::null()).status();
        if !allowed.is_ok_and(|status| status.success()) {
            println!("not run: this machine lets nobody mount in a user namespace");
            return Ok(None);
        }
        let script = format!(
            "mount -t tmpfs -o size={mebibytes}m none \"$1\" && touch \"$1/mounted\" && exec sleep infinity"
        );
        let mut holder = Process::spawn(&mut own(&script))?;
        let disk = SmallDisk {
            pid: holder.child().id().to_string(),
            holder,
            directory: directory.to_owned(),
        };
        let mark = disk.path("mounted");
        wait_for("the small disk", STEP, || mark.exists().then_some(()))?;
        std::fs::remove_file(mark)?;
        Ok(Some(disk))
    }

    /// What to put before a command so that it sees the disk.
    pub fn prefix(&self) -> Vec<String> {
        let enter = "nsenter --preserve-credentials -U -m -t";
        let words = enter.split(' ').chain([self.pid.as_str(), "--"]);
        words.map(str::to_owned).collect()
    }

    /// The place of a file on the disk, as it is seen from outside.
    pub fn path(&self, name: &str) -> PathBuf {
        let outside = self.directory.strip_prefix("/").unwrap_or(&self.directory);
        Path::new("/proc")
            .join(&self.pid)
            .join("root")
            .join(outside)
            .join(name)
    }

    /// Takes all the room that is left, to the last page.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.ballast())?;
        for block in [vec![1; 65_536], vec![1; 512]] {
            while file.write_all(&block).is_ok() {}
        }
        Ok(())
    }

    /// Takes so many mebibytes of the room.
    ///
    /// # Errors
    /// When there is less.
    pub fn take(&self, mebibytes: u32) -> Result<()> {
        let mut file = File::create(self.ballast())?;
        for _ in 0..mebibytes {
            file.write_all(&[1; 1 << 20])?;
        }
        Ok(())
    }

    /// Gives back what was taken.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn relieve(&self) -> Result<()> {
        std::fs::remove_file(self.ballast()).context("the ballast")
    }

    fn ballast(&self) -> PathBuf {
        self.path("ballast")
    }

    /// From now on nothing can be created, renamed or removed in `name`; what is open for writing stays so.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn make_read_only(&self, name: &str) -> Result<()> {
        let directory = self.directory.join(name);
        let text = directory.to_string_lossy();
        self.run(&["mount", "--bind", &text, &text])?;
        self.run(&["mount", "-o", "remount,bind,ro", &text])
    }

    /// Ends [`SmallDisk::make_read_only`].
    ///
    /// # Errors
    /// When it cannot be unmounted.
    pub fn make_writable(&self, name: &str) -> Result<()> {
        let directory = self.directory.join(name);
        self.run(&["umount", "-l", &directory.to_string_lossy()])
    }

    fn run(&self, command: &[&str]) -> Result<()> {
        let prefix = self.prefix();
        let (program, args) = prefix.split_first().context("a program")?;
        let output = Command::new(program).args(args).args(command).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {said}", command.join(" "));
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.holder.kill();
    }
}
