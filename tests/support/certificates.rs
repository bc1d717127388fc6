//! Certificate authorities and certificates for tests, and TLS clients that present them.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ALL_VERSIONS, ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    der: CertificateDer<'static>,
}

/// A certificate with its key.
pub struct Certificate {
    pub pem: String,
    pub key_pem: String,
    der: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let made = params.self_signed(&key).unwrap();
        Self {
            pem: made.pem(),
            der: made.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A server certificate for `localhost` and 127.0.0.1.
    pub fn server(&self) -> Certificate {
        let mut params = CertificateParams::new(["localhost".into(), "127.0.0.1".into()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params)
    }

    /// A client certificate with this common name.
    pub fn client(&self, name: &str) -> Certificate {
        self.sign(&client_params(name))
    }

    /// A client certificate that expired in 2020.
    pub fn expired_client(&self, name: &str) -> Certificate {
        let mut params = client_params(name);
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
        self.sign(&params)
    }

    /// A client certificate with a URI as its alternative name.
    pub fn client_of_uri(&self, uri: &str) -> Certificate {
        let mut params = client_params("some host");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.issuer).unwrap();
        Certificate {
            pem: made.pem(),
            key_pem: key.serialize_pem(),
            der: made.der().clone(),
            key: key.serialize_der(),
        }
    }

    /// Connects to `localhost` at this address. The client trusts this authority, and presents a certificate
    /// or none. With TLS 1.3 the first read fails if the server refuses the certificate.
    pub async fn dial(
        &self,
        address: SocketAddr,
        shown: Option<&Certificate>,
    ) -> io::Result<TlsStream<TcpStream>> {
        dial_with(self.client_config(shown, ALL_VERSIONS), address).await
    }

    /// The configuration of a client that trusts this authority and presents a certificate or none. It
    /// stores the sessions that servers offer for resumption.
    pub fn client_config(
        &self,
        shown: Option<&Certificate>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(q_relay::crypto::provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match shown {
            Some(shown) => {
                let key = PrivateKeyDer::try_from(shown.key.clone()).unwrap();
                let chain = vec![shown.der.clone()];
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        Arc::new(config)
    }
}

/// Connects to `localhost` at this address.
pub async fn dial_with(
    config: Arc<ClientConfig>,
    address: SocketAddr,
) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(config).connect(name, tcp).await
}

impl Certificate {
    /// Writes `server.pem` and `server.key` into a folder.
    pub fn write(&self, folder: &Path) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(folder.join("server.pem"), &self.pem).unwrap();
        let key = folder.join("server.key");
        std::fs::write(&key, &self.key_pem).unwrap();
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    }

    /// The configuration of a server that presents this certificate.
    pub fn serves(&self) -> ServerConfig {
        let key = PrivateKeyDer::try_from(self.key.clone()).unwrap();
        ServerConfig::builder_with_provider(q_relay::crypto::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone()], key)
            .unwrap()
    }

    /// Its DER encoding.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }
}

fn client_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}
