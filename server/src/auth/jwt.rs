//! Signed tokens: JSON Web Tokens with the user, the auth revision and an end, as etcd's.
//!
//! No member keeps anything of them, so they outlive a restart; in exchange nothing but their end or a change of users and
//! roles makes them worthless. Requests for keys with a token of an older auth revision are refused, and clients log in again.

mod ring_keys;

use api::error::Error;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// etcd's default.
const DEFAULT_TTL: Duration = Duration::from_mins(5);

/// What `--auth-token=jwt,...` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtOptions {
    /// The name of the method, such as RS256.
    pub sign_method: String,
    /// The key that signs; without it tokens are only checked.
    pub private_key: Option<PathBuf>,
    /// The key that checks; without it the one that belongs to the other.
    pub public_key: Option<PathBuf>,
    /// How long a token lives.
    pub ttl: Duration,
}

impl JwtOptions {
    /// Reads what follows `jwt,`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(
        options: &str,
        duration: impl Fn(&str) -> Result<Duration, String>,
    ) -> Result<(Self, Vec<String>), String> {
        let mut given = BTreeMap::new();
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let Some((name, value)) = option.split_once('=').filter(|(_, value)| !value.contains('=')) else {
                return Err(format!("--auth-token: {option:?} is not of the form name=value"));
            };
            if given.insert(name, value).is_some() {
                return Err(format!("--auth-token: {name} is given twice"));
            }
        }
        let mut take = |name: &str| given.remove(name).filter(|value| !value.is_empty());
        let sign_method = take("sign-method").ok_or("--auth-token: sign-method is missing")?.to_owned();
        algorithm(&sign_method)?;
        let path = |value: Option<&str>| value.map(PathBuf::from);
        let (private_key, public_key) = (path(take("priv-key")), path(take("pub-key")));
        let ttl = take("ttl").map_or(Ok(DEFAULT_TTL), |ttl| duration(ttl).map_err(|e| format!("--auth-token: {e}")))?;
        let unknown = given.keys().map(|name| format!("--auth-token: option {name} is not known")).collect();
        Ok((Self { sign_method, private_key, public_key, ttl }, unknown))
    }
}

fn algorithm(name: &str) -> Result<Algorithm, String> {
    match name {
        "ES512" => Err("--auth-token: sign-method ES512 is not supported; ES256 and ES384 are".to_owned()),
        _ => name.parse().map_err(|_| format!("--auth-token: sign-method {name:?} is not known")),
    }
}

/// What a token says.
#[derive(Serialize, Deserialize)]
struct Claims {
    username: String,
    revision: u64,
    exp: u64,
}

/// Signs and checks tokens.
pub(crate) struct Jwt {
    algorithm: Algorithm,
    /// None: other software signs.
    signs: Option<EncodingKey>,
    checks: DecodingKey,
    validation: Validation,
    ttl: Duration,
}

impl Jwt {
    /// Reads the keys.
    ///
    /// # Errors
    /// With the file that cannot be used.
    pub(crate) fn open(options: &JwtOptions) -> Result<Self, String> {
        ring_keys::install();
        let algorithm = algorithm(&options.sign_method)?;
        let read = |path: &Path| std::fs::read(path).map_err(|error| cannot_use(path, &error));
        let signs = match &options.private_key {
            Some(path) => Some(ring_keys::private_key(algorithm, &read(path)?).map_err(|e| cannot_use(path, &e))?),
            None => None,
        };
        let checks = match (&options.public_key, &signs) {
            (Some(path), _) if !ring_keys::is_symmetric(algorithm) => {
                ring_keys::public_key(algorithm, &read(path)?).map_err(|e| cannot_use(path, &e))?
            }
            (_, Some(key)) => ring_keys::public_key_of(algorithm, key)
                .map_err(|error| cannot_use(options.private_key.as_deref().unwrap_or(Path::new("")), &error))?,
            (_, None) => return Err("--auth-token: there is no key: give pub-key or priv-key".to_owned()),
        };
        let mut validation = Validation::new(algorithm);
        validation.leeway = 0;
        validation.validate_aud = false;
        let jwt = Self { algorithm, signs, checks, validation, ttl: options.ttl };
        if let (Some(_), Some(path)) = (&jwt.signs, &options.public_key) {
            let token = jwt.sign("", 1).map_err(|error| cannot_use(path, &error))?;
            jwt.verify(&token).ok_or_else(|| cannot_use(path, &"it does not belong to priv-key"))?;
        }
        Ok(jwt)
    }

    /// Makes a token.
    ///
    /// # Errors
    /// There is no key to sign with: as etcd, which has no text for it.
    pub(crate) fn sign(&self, username: &str, revision: u64) -> Result<String, Error> {
        let key = self.signs.as_ref().ok_or(Error::TokenSigning)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // At least a second, or it would have ended before it is used.
        let exp = now.as_secs() + self.ttl.as_secs().max(1);
        let claims = Claims { username: username.to_owned(), revision, exp };
        jsonwebtoken::encode(&Header::new(self.algorithm), &claims, key).map_err(|_| Error::TokenSigning)
    }

    /// Whose a token is, and the auth revision at its login; none if it is not good.
    pub(crate) fn verify(&self, token: &str) -> Option<(String, u64)> {
        let claims = jsonwebtoken::decode::<Claims>(token, &self.checks, &self.validation).ok()?.claims;
        Some((claims.username, claims.revision))
    }
}

fn cannot_use(path: &Path, reason: &dyn std::fmt::Display) -> String {
    format!("--auth-token: cannot use {}: {reason}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData as _};

    fn options(text: &str) -> Result<(JwtOptions, Vec<String>), String> {
        JwtOptions::parse(text, parse::duration)
    }

    /// Keys of a kind in files.
    struct Keys {
        _dir: tempfile::TempDir,
        private: PathBuf,
        public: PathBuf,
    }

    fn keys(kind: &'static rcgen::SignatureAlgorithm) -> Keys {
        let dir = tempfile::tempdir().unwrap();
        let (private, public) = (dir.path().join("key"), dir.path().join("pub"));
        let pair = KeyPair::generate_for(kind).unwrap();
        std::fs::write(&private, pair.serialize_pem()).unwrap();
        std::fs::write(&public, pair.public_key_pem()).unwrap();
        assert!(!pair.der_bytes().is_empty());
        Keys { _dir: dir, private, public }
    }

    fn jwt(method: &str, keys: &Keys, which: &str, ttl: &str) -> Result<Jwt, String> {
        let private = format!("priv-key={},", keys.private.display());
        let public = format!("pub-key={},", keys.public.display());
        let given = match which {
            "private" => private,
            "public" => public,
            _ => private + &public,
        };
        Jwt::open(&options(&format!("{given}sign-method={method},ttl={ttl}"))?.0)
    }

    #[test]
    fn tokens_are_signed_and_checked() {
        for (method, kind) in
            [("ES256", &PKCS_ECDSA_P256_SHA256), ("ES384", &PKCS_ECDSA_P384_SHA384), ("EdDSA", &PKCS_ED25519)]
        {
            let own = keys(kind);
            let (whole, private, public) = (
                jwt(method, &own, "both", "5m").unwrap(),
                jwt(method, &own, "private", "5m").unwrap(),
                jwt(method, &own, "public", "5m").unwrap(),
            );
            for token in [whole.sign("ann", 7).unwrap(), private.sign("ann", 7).unwrap()] {
                for checks in [&whole, &private, &public] {
                    assert_eq!(checks.verify(&token), Some(("ann".to_owned(), 7)), "{method}");
                }
                for at in [0, token.len() / 2, token.len() - 8] {
                    let mut bad = token.clone().into_bytes();
                    bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
                    assert_eq!(whole.verify(&String::from_utf8(bad).unwrap()), None, "{method} {at}");
                }
            }
            assert_eq!(public.sign("ann", 7).unwrap_err(), Error::TokenSigning);
            let others = keys(kind);
            let mixed = Keys { private: others.private.clone(), ..keys(kind) };
            assert!(jwt(method, &mixed, "both", "5m").err().unwrap().contains("does not belong"), "{method}");
            assert_eq!(whole.verify(&jwt(method, &others, "private", "5m").unwrap().sign("ann", 7).unwrap()), None);
        }
    }

    #[test]
    fn a_method_is_not_taken_for_another_one() {
        let ec = keys(&PKCS_ECDSA_P256_SHA256);
        let public = jwt("ES256", &ec, "public", "5m").unwrap();
        // Signed with the public key as if it were a secret, and not signed at all.
        let secret = Keys { private: ec.public.clone(), ..keys(&PKCS_ECDSA_P256_SHA256) };
        let forged = jwt("HS256", &secret, "private", "5m").unwrap().sign("root", 99).unwrap();
        assert_eq!(public.verify(&forged), None);
        let claims = forged.split('.').nth(1).unwrap();
        assert_eq!(public.verify(&format!("eyJhbGciOiJub25lIn0.{claims}.")), None);
    }

    #[test]
    fn a_token_comes_to_its_end() {
        let keys = keys(&PKCS_ED25519);
        let own = jwt("EdDSA", &keys, "both", "5m").unwrap();
        let claims = Claims { username: "ann".to_owned(), revision: 1, exp: 1_000_000 };
        let key = own.signs.as_ref().unwrap();
        let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, key).unwrap();
        assert_eq!(own.verify(&token), None);
        // Without an end it is none of ours.
        let token = jsonwebtoken::encode(
            &Header::new(Algorithm::EdDSA),
            &serde_json::json!({"username": "ann", "revision": 1}),
            key,
        );
        assert_eq!(own.verify(&token.unwrap()), None);
    }

    #[test]
    fn secrets_sign() {
        for method in ["HS256", "HS384", "HS512"] {
            let keys = keys(&PKCS_ED25519);
            let own = jwt(method, &keys, "private", "5m").unwrap();
            assert_eq!(own.verify(&own.sign("ann", 7).unwrap()), Some(("ann".to_owned(), 7)));
            assert!(jwt(method, &keys, "public", "5m").is_err(), "{method} has no public key");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let keys = keys(&PKCS_ED25519);
        for (text, expected) in [
            ("", "sign-method is missing"),
            ("sign-method=none", "not known"),
            ("sign-method=ES512", "not supported"),
            ("sign-method=RS256", "no key"),
            ("sign-method=RS256,priv-key=/nowhere", "/nowhere"),
            ("sign-method=RS256,sign-method=RS256", "twice"),
            ("sign-method", "name=value"),
            ("sign-method=HS256,ttl=x", "auth-token"),
        ] {
            let error = options(text).and_then(|(options, _)| Jwt::open(&options)).err().unwrap();
            assert!(error.contains(expected), "{text}: {error}");
        }
        for method in ["RS256", "PS256", "ES256"] {
            assert!(jwt(method, &keys, "private", "5m").err().unwrap().contains("cannot use"), "{method}");
            assert!(jwt(method, &keys, "public", "5m").err().unwrap().contains("cannot use"), "{method}");
        }
        let (_, unknown) = options("sign-method=HS256,colour=red").unwrap();
        assert_eq!(unknown.len(), 1);
    }
}
