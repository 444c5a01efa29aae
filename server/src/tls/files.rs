//! The files of TLS: reading them within limits, and telling whether they have changed.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A file larger than this is refused. A revocation list of this size holds hundreds of thousands of certificates.
const MAX_BYTES: u64 = 16 << 20;

/// A file that was changed so short ago may change again without showing it: clocks of file systems are coarse.
const SETTLING: Duration = Duration::from_secs(1);

/// Why TLS cannot be used as it was set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or has not what it should have.
    #[error("cannot use TLS file {}: {reason}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// The settings do not fit together.
    #[error("cannot set up TLS for {side} connections: {reason}")]
    Setup {
        /// Whose connections.
        side: &'static str,
        /// Why.
        reason: String,
    },
}

impl TlsError {
    pub(super) fn file(file: &Path, reason: impl Into<String>) -> Self {
        Self::File { file: file.to_owned(), reason: reason.into() }
    }
}

/// How a set of files looks from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamps {
    files: Vec<Option<Stamp>>,
    /// False if a later change might look the same.
    pub(super) are_settled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
    inode: (u64, u64),
}

impl Stamps {
    /// Looks at files. Links are followed: mounted secrets are renewed by turning a link.
    pub(super) fn of(paths: &[PathBuf]) -> Self {
        let found: Vec<Option<Metadata>> = paths.iter().map(|path| std::fs::metadata(path).ok()).collect();
        let is_settled = |file: &Metadata| {
            let modified = file.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            SystemTime::now().duration_since(modified).is_ok_and(|age| age > SETTLING)
        };
        let stamp = |file: &Metadata| Stamp {
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
            size: file.size(),
            inode: (file.dev(), file.ino()),
        };
        Self {
            are_settled: found.iter().flatten().all(is_settled),
            files: found.iter().map(|file| file.as_ref().map(stamp)).collect(),
        }
    }

    /// True if nothing can have changed since these stamps were taken.
    pub(super) fn show_no_change(&self, now: &Self) -> bool {
        self.are_settled && self.files == now.files
    }
}

/// The bytes of a set of files.
pub(super) struct Contents {
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Contents {
    /// Reads all files.
    ///
    /// # Errors
    /// [`TlsError::File`] for the first that cannot be read.
    pub(super) fn read(paths: &[PathBuf]) -> Result<Self, TlsError> {
        let read = |path: &PathBuf| {
            let mut bytes = Vec::new();
            File::open(path)
                .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
                .map_err(|error| TlsError::file(path, error.to_string()))?;
            if bytes.len() as u64 > MAX_BYTES {
                return Err(TlsError::file(path, format!("it has more than {MAX_BYTES} bytes")));
            }
            Ok((path.clone(), bytes))
        };
        Ok(Self { files: paths.iter().map(read).collect::<Result<_, _>>()? })
    }

    /// Tells contents apart without keeping the key in memory twice.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for (_, bytes) in &self.files {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        }
        digest.finalize().into()
    }

    fn bytes(&self, path: &Path) -> Result<&[u8], TlsError> {
        let found = self.files.iter().find(|(known, _)| known == path);
        found.map(|(_, bytes)| bytes.as_slice()).ok_or_else(|| TlsError::file(path, "it was not read"))
    }

    /// All certificates of a PEM file.
    pub(super) fn certificates(&self, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.bytes(path)?).collect();
        let found = found.map_err(|error| TlsError::file(path, format!("not a PEM file: {error}")))?;
        if found.is_empty() {
            return Err(TlsError::file(path, "no PEM certificate in it"));
        }
        Ok(found)
    }

    /// The key of a PEM file.
    pub(super) fn key(&self, path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(self.bytes(path)?)
            .map_err(|_| TlsError::file(path, "no PEM private key in it that is not encrypted"))
    }

    /// All revocation lists of a file, which is PEM or one list in DER, as etcd takes both.
    pub(super) fn revocation_lists(&self, path: &Path) -> Result<Vec<Vec<u8>>, TlsError> {
        let bytes = self.bytes(path)?;
        // Every DER element of this kind begins with this byte, and no text does so by chance: it is the digit 0.
        if bytes.first() == Some(&0x30) {
            return Ok(vec![bytes.to_vec()]);
        }
        let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(bytes).collect();
        let found = found.map_err(|error| TlsError::file(path, format!("not a PEM file: {error}")))?;
        if found.is_empty() {
            return Err(TlsError::file(path, "no revocation list in it"));
        }
        Ok(found.into_iter().map(|list| list.as_ref().to_vec()).collect())
    }
}
