//! Certificates that the member makes for itself (`--auto-tls`, `--peer-auto-tls`).
//!
//! They encrypt, and prove nothing to a caller that does not know them already. The files stay in the data directory
//! and are used again until they expire; then the next start makes new ones.

use super::der::CertFacts;
use super::files::{Contents, TlsError};
use crate::config::KeyPairFiles;
use crate::data_dir::make_private;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::crypto::ring;
use rustls::sign::CertifiedKey;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PRIVATE_FILE: u32 = 0o600;
const DAY: Duration = Duration::from_hours(24);
/// For callers whose clock is behind.
const BACKDATED: Duration = Duration::from_hours(1);

/// Returns the files in a directory, and makes them if they are missing, expired or of no use.
///
/// # Errors
/// [`TlsError`], with the file.
pub(super) fn ensure(dir: &Path, hosts: &[String], validity_years: u32) -> Result<KeyPairFiles, TlsError> {
    let files = KeyPairFiles { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
    if !files.cert.exists() && !files.key.exists() {
        make(dir, &files, hosts, validity_years)?;
        return Ok(files);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let reason = match not_after(&files) {
        Ok(not_after) if not_after > now.as_secs() as i64 => return Ok(files),
        Ok(_) => "it has expired".to_owned(),
        Err(error) => error.to_string(),
    };
    tracing::warn!(dir = %dir.display(), reason, "replacing the generated certificate");
    make(dir, &files, hosts, validity_years)?;
    Ok(files)
}

/// When the certificate ends, if it and its key are good for anything.
fn not_after(files: &KeyPairFiles) -> Result<i64, TlsError> {
    let contents = Contents::read(&[files.cert.clone(), files.key.clone()])?;
    let chain = contents.certificates(&files.cert)?;
    let not_after = chain.first().and_then(|certificate| CertFacts::of(certificate)).map(|facts| facts.not_after);
    CertifiedKey::from_der(chain, contents.key(&files.key)?, &ring::default_provider())
        .map_err(|error| TlsError::file(&files.key, error.to_string()))?;
    not_after.ok_or_else(|| TlsError::file(&files.cert, "it cannot be read"))
}

fn make(dir: &Path, files: &KeyPairFiles, hosts: &[String], validity_years: u32) -> Result<(), TlsError> {
    let failed = |error: &dyn std::fmt::Display| TlsError::file(&files.cert, format!("cannot make it: {error}"));
    let mut params = CertificateParams::new(hosts).map_err(|error| failed(&error))?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "cleat");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + DAY * 365 * validity_years;
    let key = KeyPair::generate().map_err(|error| failed(&error))?;
    let certificate = params.self_signed(&key).map_err(|error| failed(&error))?;
    make_private(dir).map_err(|error| failed(&error))?;
    // A start that is cut short in between leaves a pair that does not match, and the next one makes another.
    write(dir, &files.key, &key.serialize_pem()).map_err(|error| TlsError::file(&files.key, error.to_string()))?;
    write(dir, &files.cert, &certificate.pem()).map_err(|error| failed(&error))?;
    tracing::info!(dir = %dir.display(), ?hosts, validity_years, "made a self-signed certificate");
    Ok(())
}

fn write(dir: &Path, path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("pem.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE_FILE).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(new, path)?;
    File::open(dir)?.sync_all()
}
