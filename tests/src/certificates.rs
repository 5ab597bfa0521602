//! A small certificate authority for the TLS tests, made with the openssl program.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::process::find_program;

/// A CA, a server certificate for 127.0.0.1 and localhost, and a client certificate.
#[derive(Debug)]
pub struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Makes all of them in `directory`.
    ///
    /// # Errors
    /// When openssl is missing or refuses.
    pub fn make(directory: &Path) -> Result<Certificates> {
        let made = Certificates {
            directory: directory.to_owned(),
        };
        made.openssl(&format!(
            "req -x509 {NEW_KEY} -keyout ca.key -out ca.pem -days 30 -subj /CN=Millrace-test-CA"
        ))?;
        std::fs::write(
            directory.join("server.ext"),
            "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n",
        )?;
        std::fs::write(
            directory.join("client.ext"),
            "extendedKeyUsage=clientAuth\nbasicConstraints=CA:FALSE\n",
        )?;
        made.issue("server", "localhost")?;
        made.issue("client", "gw-1")?;
        Ok(made)
    }

    fn issue(&self, name: &str, subject: &str) -> Result<()> {
        self.openssl(&format!(
            "req {NEW_KEY} -keyout {name}.key -out {name}.csr -subj /CN={subject}"
        ))?;
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile {name}.ext -out {name}.pem"
        ))
    }

    fn openssl(&self, args: &str) -> Result<()> {
        let output = Command::new(find_program("openssl")?)
            .args(args.split(' '))
            .current_dir(&self.directory)
            .output()?;
        ensure!(
            output.status.success(),
            "openssl {args}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// The CA's certificate.
    pub fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// The server's certificate.
    pub fn server(&self) -> PathBuf {
        self.directory.join("server.pem")
    }

    /// The server's key.
    pub fn server_key(&self) -> PathBuf {
        self.directory.join("server.key")
    }

    /// The client's certificate.
    pub fn client(&self) -> PathBuf {
        self.directory.join("client.pem")
    }

    /// The client's key.
    pub fn client_key(&self) -> PathBuf {
        self.directory.join("client.key")
    }
}

const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
