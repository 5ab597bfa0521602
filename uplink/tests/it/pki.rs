//! A certificate authority, a server and a client of its own for each test.

use std::path::PathBuf;
use std::sync::Arc;

use millrace_uplink::TlsFiles;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

pub(crate) struct Pki {
    dir: TempDir,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca.distinguished_name.push(DnType::CommonName, "test CA");
        let ca_cert = ca.self_signed(&ca_key).unwrap();
        std::fs::write(dir.path().join("ca.pem"), ca_cert.pem()).unwrap();
        let issuer = Issuer::new(ca, ca_key);
        for name in ["localhost", "gw-1"] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            let cert = params.signed_by(&key, &issuer).unwrap();
            std::fs::write(dir.path().join(format!("{name}.pem")), cert.pem()).unwrap();
            std::fs::write(dir.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Self { dir }
    }

    pub(crate) fn directory(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.file("ca.pem")
    }

    pub(crate) fn client_files(&self) -> TlsFiles {
        TlsFiles {
            ca_file: Some(self.ca_file()),
            cert_file: Some(self.file("gw-1.pem")),
            key_file: Some(self.file("gw-1.key")),
            ..TlsFiles::default()
        }
    }

    /// A server that asks for a client certificate of this CA.
    pub(crate) fn server_config(&self) -> Arc<rustls::ServerConfig> {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(self.ca_file()).unwrap();
        roots.add(ca).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .unwrap();
        self.config(clients)
    }

    /// SHA-256 of the authority's certificate.
    pub(crate) fn ca_sha256(&self) -> [u8; 32] {
        let ca = CertificateDer::from_pem_file(self.ca_file()).unwrap();
        let digest = ring::digest::digest(&ring::digest::SHA256, &ca);
        digest.as_ref().try_into().unwrap()
    }

    /// A server that takes every client and sends the authority's certificate along.
    pub(crate) fn server_config_with_ca(&self) -> Arc<rustls::ServerConfig> {
        let chain = ["localhost.pem", "ca.pem"]
            .map(|name| CertificateDer::from_pem_file(self.file(name)).unwrap());
        self.config_with(Arc::new(rustls::server::NoClientAuth), chain.to_vec())
    }

    /// A server that takes every client.
    pub(crate) fn open_server_config(&self) -> Arc<rustls::ServerConfig> {
        self.config(Arc::new(rustls::server::NoClientAuth))
    }

    fn config(&self, clients: Arc<dyn ClientCertVerifier>) -> Arc<rustls::ServerConfig> {
        let chain = vec![CertificateDer::from_pem_file(self.file("localhost.pem")).unwrap()];
        self.config_with(clients, chain)
    }

    fn config_with(
        &self,
        clients: Arc<dyn ClientCertVerifier>,
        chain: Vec<CertificateDer<'static>>,
    ) -> Arc<rustls::ServerConfig> {
        let key = PrivateKeyDer::from_pem_file(self.file("localhost.key")).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
