//! Certificates for tests of TLS: an authority, what it issues, and what it revokes.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationList, CertificateRevocationListParams, CertifiedIssuer,
    DnType, Error, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber, date_time_ymd,
};

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate in PEM.
    pub cert: String,
    /// The key in PEM.
    pub key: String,
    /// The certificate in DER, as it is shown in handshakes.
    pub der: Vec<u8>,
}

/// Signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// Makes one with a name.
    pub fn new(name: &str) -> Result<Self, Error> {
        let mut params = params(name, &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages.clear();
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// Its own certificate in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Its own certificate in DER.
    pub fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    /// A certificate for both directions, with a common name, and host names and addresses.
    pub fn issue(&self, common_name: &str, hosts: &[&str]) -> Result<Pair, Error> {
        self.issue_with(common_name, hosts, |_| {})
    }

    /// The same with a serial number.
    pub fn issue_numbered(&self, common_name: &str, hosts: &[&str], serial: u64) -> Result<Pair, Error> {
        self.issue_with(common_name, hosts, |params| params.serial_number = Some(SerialNumber::from(serial)))
    }

    /// A certificate that was good until 2020.
    pub fn issue_expired(&self, common_name: &str, hosts: &[&str]) -> Result<Pair, Error> {
        self.issue_with(common_name, hosts, |params| params.not_after = date_time_ymd(2020, 1, 1))
    }

    /// A certificate with anything else that is changed.
    pub fn issue_with(
        &self,
        common_name: &str,
        hosts: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Pair, Error> {
        let mut params = params(common_name, hosts)?;
        change(&mut params);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        Ok(Pair { cert: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() })
    }

    /// A list of revoked serial numbers.
    pub fn revoke(&self, serials: &[u64]) -> Result<CertificateRevocationList, Error> {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2124, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0)
    }
}

/// A certificate that no authority has signed.
pub fn self_signed(common_name: &str, hosts: &[&str]) -> Result<Pair, Error> {
    let key = KeyPair::generate()?;
    let certificate = params(common_name, hosts)?.self_signed(&key)?;
    Ok(Pair { cert: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() })
}

/// A certificate that is its own authority, as `openssl req -x509` makes them.
pub fn own_authority(common_name: &str, hosts: &[&str]) -> Result<Pair, Error> {
    let key = KeyPair::generate()?;
    let mut params = params(common_name, hosts)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.extended_key_usages.clear();
    let certificate = params.self_signed(&key)?;
    Ok(Pair { cert: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() })
}

fn params(common_name: &str, hosts: &[&str]) -> Result<CertificateParams, Error> {
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}
