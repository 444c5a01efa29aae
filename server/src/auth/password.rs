//! Passwords: bcrypt, which is slow on purpose, away from everything else.
//!
//! A few comparisons run at a time, on threads that step back for others, so that a thousand logins at once leave the
//! processors to them; some wait, and further ones are refused. What was right is remembered for a while, so that a fleet that logs in with one
//! password costs one comparison.

use api::error::Error;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// The longest password that bcrypt looks at as a whole, bytes.
const PASSWORD_MAX: usize = 72;

/// Costs that bcrypt knows.
pub(crate) const COSTS: std::ops::RangeInclusive<u32> = 4..=31;

/// Costs above this are refused in hashes that clients bring: one comparison would take minutes.
const BROUGHT_COST_MAX: u32 = 16;

/// Logins that wait for a comparison. More are refused with "too many requests".
const WAITING_MAX: usize = 1024;

/// How long a login waits for its turn.
const PATIENCE: Duration = Duration::from_secs(7);

/// Right passwords that are remembered. Beyond it the oldest one is forgotten.
const REMEMBERED_MAX: usize = 1024;

/// How long they are.
const REMEMBERED_FOR: Duration = Duration::from_mins(5);

/// See the module.
pub(crate) struct Passwords {
    cost: u32,
    turns: Arc<Semaphore>,
    waiting: Semaphore,
    remembered: Mutex<HashMap<[u8; 32], Instant>>,
    /// Chosen at the start, so that what is remembered says nothing elsewhere.
    salt: [u8; 32],
}

impl Passwords {
    /// `cost` is that of new hashes.
    pub(crate) fn new(cost: u32) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            cost,
            turns: Arc::new(Semaphore::new((processors / 2).max(1))),
            waiting: Semaphore::new(WAITING_MAX),
            remembered: Mutex::default(),
            salt: rand::random(),
        }
    }

    /// Makes the hash of a new password: as etcd stores it, in base64 as its requests carry it.
    ///
    /// # Errors
    /// It is too long; too many log in at the moment.
    pub(crate) async fn hash(&self, password: &str) -> Result<String, Error> {
        if password.len() > PASSWORD_MAX {
            return Err(Error::PasswordTooLong);
        }
        let (password, cost) = (password.to_owned(), self.cost);
        let hash = gently(self.turn().await?, move || bcrypt::hash_with_result(password, cost)).await?;
        // The version that etcd writes.
        let hash = hash.map_err(|_| Error::AuthFailed)?.format_for_version(bcrypt::Version::TwoA);
        Ok(STANDARD.encode(hash))
    }

    /// Compares a password with a user's hash; with no user, with one that nobody has, so that the time does not tell.
    ///
    /// # Errors
    /// Too many log in at the moment.
    pub(crate) async fn is_right(&self, hash: Option<&[u8]>, password: &str) -> Result<bool, Error> {
        let exists = hash.is_some();
        let nobody = format!("$2a${:02}$abcdefghijklmnopqrstuuMRGWqQ2XEVhDQYRgUwHhFrAJ7nSgXRa", self.cost);
        let hash = hash.map_or(nobody, |hash| String::from_utf8_lossy(hash).into_owned());
        // Of the hash as well: another password is another entry.
        let sum: [u8; 32] = Sha256::new()
            .chain_update(self.salt)
            .chain_update(&hash)
            .chain_update([0])
            .chain_update(password)
            .finalize()
            .into();
        if self.remembers(&sum) {
            return Ok(exists);
        }
        let permit = self.turn().await?;
        // Others with the same password may have been first.
        if self.remembers(&sum) {
            return Ok(exists);
        }
        let password = password.to_owned();
        let compared = gently(permit, move || bcrypt::verify(password, &hash).unwrap_or(false)).await?;
        let is_right = compared && exists;
        if is_right {
            self.remember(sum);
        }
        Ok(is_right)
    }

    /// Waits for a turn, among no more than may wait.
    async fn turn(&self) -> Result<OwnedSemaphorePermit, Error> {
        let _waiting = self.waiting.try_acquire().map_err(|_| Error::TooManyRequests)?;
        match tokio::time::timeout(PATIENCE, Arc::clone(&self.turns).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(Error::Stopped),
            Err(_) => Err(Error::TooManyRequests),
        }
    }

    fn remembers(&self, sum: &[u8; 32]) -> bool {
        self.remembered.lock().get(sum).is_some_and(|since| since.elapsed() < REMEMBERED_FOR)
    }

    fn remember(&self, sum: [u8; 32]) {
        let mut remembered = self.remembered.lock();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, since| since.elapsed() < REMEMBERED_FOR);
        }
        if remembered.len() >= REMEMBERED_MAX
            && let Some(oldest) = remembered.iter().min_by_key(|(_, since)| **since).map(|(sum, _)| *sum)
        {
            remembered.remove(&oldest);
        }
        remembered.insert(sum, Instant::now());
    }
}

/// Does the work of a turn, to its end even when the caller leaves: until then nobody else has the turn.
async fn gently<T: Send + 'static>(
    turn: OwnedSemaphorePermit,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let done = crate::blocking::run_gently(move || {
        let done = work();
        drop(turn);
        done
    });
    // Without a thread for it, this member has no room for anything.
    done.await.ok_or(Error::TooManyRequests)
}

/// Checks a hash that a client brings, in base64: another etcd's.
///
/// # Errors
/// It is none, or comparing with it would take minutes.
pub(crate) fn check_brought(encoded: &str) -> Result<(), Error> {
    let hash = STANDARD.decode(encoded).ok().and_then(|hash| String::from_utf8(hash).ok());
    let parts = hash.and_then(|hash| hash.parse::<bcrypt::HashParts>().ok());
    match parts {
        Some(parts) if parts.get_cost() <= BROUGHT_COST_MAX => Ok(()),
        _ => Err(Error::NoPasswordUser),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(hash: &str) -> Vec<u8> {
        STANDARD.decode(hash).unwrap()
    }

    #[tokio::test]
    async fn hashes_are_etcds() {
        let passwords = Passwords::new(4);
        let hash = passwords.hash("rootpw").await.unwrap();
        check_brought(&hash).unwrap();
        let hash = decoded(&hash);
        assert!(hash.starts_with(b"$2a$04$"));
        assert!(passwords.is_right(Some(&hash), "rootpw").await.unwrap());
        assert!(!passwords.is_right(Some(&hash), "rootpw2").await.unwrap());
        assert!(!passwords.is_right(Some(&hash), "").await.unwrap());
        // One that another library made.
        let others = b"$2a$10$HwPKRcQwJRuyXrV5kPC5y.AGzjyJOHYs2Z1S/ItiYo5nhws5VRmQm";
        assert!(passwords.is_right(Some(others), "pw1").await.unwrap());
        assert!(!passwords.is_right(Some(others), "pw2").await.unwrap());
    }

    #[tokio::test]
    async fn what_is_no_hash_is_no_password() {
        let passwords = Passwords::new(4);
        for hash in [&b""[..], b"$2a$04$", b"\xff\xfe", b"$9z$04$abcdefghijklmnopqrstuuMRGWqQ2XEVhDQYRgUwHhFrAJ7nSgXRa"]
        {
            assert!(!passwords.is_right(Some(hash), "").await.unwrap());
            assert!(check_brought(&STANDARD.encode(hash)).is_err());
        }
        assert!(check_brought("no base64").is_err());
        let dear = STANDARD.encode("$2a$31$abcdefghijklmnopqrstuuMRGWqQ2XEVhDQYRgUwHhFrAJ7nSgXRa");
        assert_eq!(check_brought(&dear), Err(Error::NoPasswordUser));
    }

    #[tokio::test]
    async fn nobody_has_no_password() {
        let passwords = Passwords::new(4);
        for password in ["", "nobody", "x"] {
            assert!(!passwords.is_right(None, password).await.unwrap());
        }
        assert!(passwords.remembered.lock().is_empty());
    }

    #[tokio::test]
    async fn what_was_right_is_remembered_for_that_hash_alone() {
        let passwords = Passwords::new(4);
        let (one, other) = (decoded(&passwords.hash("a").await.unwrap()), decoded(&passwords.hash("b").await.unwrap()));
        assert!(passwords.is_right(Some(&one), "a").await.unwrap());
        // No turn is left: what is remembered needs none, anything else is refused at once.
        let _turns = passwords.turns.acquire_many(passwords.turns.available_permits() as u32).await.unwrap();
        let _waiting = passwords.waiting.acquire_many(WAITING_MAX as u32).await.unwrap();
        assert!(passwords.is_right(Some(&one), "a").await.unwrap());
        assert_eq!(passwords.is_right(Some(&other), "a").await, Err(Error::TooManyRequests));
        assert_eq!(passwords.is_right(Some(&one), "b").await, Err(Error::TooManyRequests));
        assert_eq!(passwords.hash("c").await, Err(Error::TooManyRequests));
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let passwords = Passwords::new(4);
        for n in 0..REMEMBERED_MAX as u64 + 10 {
            let mut sum = [0; 32];
            sum[..8].copy_from_slice(&n.to_be_bytes());
            passwords.remember(sum);
        }
        assert_eq!(passwords.remembered.lock().len(), REMEMBERED_MAX);
    }

    #[tokio::test]
    async fn the_length_is_bcrypts() {
        let passwords = Passwords::new(4);
        let longest = "x".repeat(72);
        let hash = decoded(&passwords.hash(&longest).await.unwrap());
        assert!(passwords.is_right(Some(&hash), &longest).await.unwrap());
        assert!(!passwords.is_right(Some(&hash), &longest[1..]).await.unwrap());
        assert_eq!(passwords.hash(&"x".repeat(73)).await, Err(Error::PasswordTooLong));
    }
}
