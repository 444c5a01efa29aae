//! What the token library leaves to others: signatures, here ring's, which TLS uses as well.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey};
use ring::rand::SystemRandom;
use ring::signature::{self as sig, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair, UnparsedPublicKey};
use ring::{hmac, signature::VerificationAlgorithm};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| signer(*algorithm, key),
    verifier_factory: |algorithm, key| verifier(*algorithm, key),
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes the library use ring. May be called again.
pub(super) fn install() {
    // Another provider can not be there: nobody else uses the library.
    PROVIDER.install_default().ok();
}

pub(super) fn is_symmetric(algorithm: Algorithm) -> bool {
    algorithm.family() == AlgorithmFamily::Hmac
}

/// Reads the key that signs.
pub(super) fn private_key(algorithm: Algorithm, file: &[u8]) -> Result<EncodingKey> {
    let key = match algorithm.family() {
        AlgorithmFamily::Hmac if file.is_empty() => return Err(ErrorKind::InvalidKeyFormat.into()),
        AlgorithmFamily::Hmac => EncodingKey::from_secret(file),
        AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(file)?,
        AlgorithmFamily::Ec => EncodingKey::from_ec_pem(file)?,
        AlgorithmFamily::Ed => EncodingKey::from_ed_pem(file)?,
    };
    signer(algorithm, &key)?;
    Ok(key)
}

/// Reads the key that checks.
pub(super) fn public_key(algorithm: Algorithm, file: &[u8]) -> Result<DecodingKey> {
    match algorithm.family() {
        AlgorithmFamily::Hmac => Err(ErrorKind::InvalidKeyFormat.into()),
        AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(file),
        AlgorithmFamily::Ec => DecodingKey::from_ec_pem(file),
        AlgorithmFamily::Ed => DecodingKey::from_ed_pem(file),
    }
}

/// The key that checks what another one signs.
pub(super) fn public_key_of(algorithm: Algorithm, key: &EncodingKey) -> Result<DecodingKey> {
    Ok(match SigningKey::new(algorithm, key)? {
        SigningKey::Hmac(_) => DecodingKey::from_secret(key.as_bytes()),
        SigningKey::Rsa(pair, _) => DecodingKey::from_rsa_der(pair.public_key().as_ref()),
        SigningKey::Ecdsa(pair) => DecodingKey::from_ec_der(pair.public_key().as_ref()),
        SigningKey::Ed(pair) => DecodingKey::from_ed_der(pair.public_key().as_ref()),
    })
}

enum SigningKey {
    Hmac(hmac::Key),
    Rsa(Box<RsaKeyPair>, &'static dyn RsaEncoding),
    Ecdsa(Box<EcdsaKeyPair>),
    Ed(Box<Ed25519KeyPair>),
}

impl SigningKey {
    fn new(algorithm: Algorithm, key: &EncodingKey) -> Result<Self> {
        if key.family() != algorithm.family() {
            return Err(ErrorKind::InvalidKeyFormat.into());
        }
        let der = key.as_bytes();
        let rsa = |encoding| {
            let pair = RsaKeyPair::from_der(der).or_else(|_| RsaKeyPair::from_pkcs8(der));
            pair.map(|pair| Self::Rsa(Box::new(pair), encoding)).map_err(|e| ErrorKind::InvalidRsaKey(e.to_string()))
        };
        let ecdsa = |kind| {
            let pair = EcdsaKeyPair::from_pkcs8(kind, der, &SystemRandom::new());
            pair.map(|pair| Self::Ecdsa(Box::new(pair))).map_err(|_| ErrorKind::InvalidEcdsaKey)
        };
        Ok(match algorithm {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => Self::Hmac(hmac_key(algorithm, der)),
            Algorithm::RS256 => rsa(&sig::RSA_PKCS1_SHA256)?,
            Algorithm::RS384 => rsa(&sig::RSA_PKCS1_SHA384)?,
            Algorithm::RS512 => rsa(&sig::RSA_PKCS1_SHA512)?,
            Algorithm::PS256 => rsa(&sig::RSA_PSS_SHA256)?,
            Algorithm::PS384 => rsa(&sig::RSA_PSS_SHA384)?,
            Algorithm::PS512 => rsa(&sig::RSA_PSS_SHA512)?,
            Algorithm::ES256 => ecdsa(&sig::ECDSA_P256_SHA256_FIXED_SIGNING)?,
            Algorithm::ES384 => ecdsa(&sig::ECDSA_P384_SHA384_FIXED_SIGNING)?,
            Algorithm::EdDSA => {
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| ErrorKind::InvalidEddsaKey)?;
                Self::Ed(Box::new(pair))
            }
            _ => return Err(ErrorKind::InvalidAlgorithm.into()),
        })
    }
}

fn hmac_key(algorithm: Algorithm, secret: &[u8]) -> hmac::Key {
    let kind = match algorithm {
        Algorithm::HS384 => hmac::HMAC_SHA384,
        Algorithm::HS512 => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    hmac::Key::new(kind, secret)
}

struct Signing(Algorithm, SigningKey);

fn signer(algorithm: Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    Ok(Box::new(Signing(algorithm, SigningKey::new(algorithm, key)?)))
}

impl signature::Signer<Vec<u8>> for Signing {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, signature::Error> {
        let random = SystemRandom::new();
        match &self.1 {
            SigningKey::Hmac(key) => Ok(hmac::sign(key, message).as_ref().to_vec()),
            SigningKey::Rsa(pair, encoding) => {
                let mut signed = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &random, message, &mut signed).map_err(|_| signature::Error::new())?;
                Ok(signed)
            }
            SigningKey::Ecdsa(pair) => {
                pair.sign(&random, message).map(|s| s.as_ref().to_vec()).map_err(|_| signature::Error::new())
            }
            SigningKey::Ed(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

impl JwtSigner for Signing {
    fn algorithm(&self) -> Algorithm {
        self.0
    }
}

enum CheckingKey {
    Hmac(hmac::Key),
    Public(UnparsedPublicKey<Vec<u8>>),
}

struct Checking(Algorithm, CheckingKey);

fn verifier(algorithm: Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    let bytes = key.try_get_as_bytes()?;
    let kind: &'static dyn VerificationAlgorithm = match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
            return Ok(Box::new(Checking(algorithm, CheckingKey::Hmac(hmac_key(algorithm, bytes)))));
        }
        Algorithm::RS256 => &sig::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &sig::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &sig::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &sig::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &sig::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &sig::RSA_PSS_2048_8192_SHA512,
        Algorithm::ES256 => &sig::ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &sig::ECDSA_P384_SHA384_FIXED,
        Algorithm::EdDSA => &sig::ED25519,
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    };
    let key = UnparsedPublicKey::new(kind, bytes.to_vec());
    Ok(Box::new(Checking(algorithm, CheckingKey::Public(key))))
}

impl signature::Verifier<Vec<u8>> for Checking {
    fn verify(&self, message: &[u8], signed: &Vec<u8>) -> std::result::Result<(), signature::Error> {
        let is_good = match &self.1 {
            CheckingKey::Hmac(key) => hmac::verify(key, message, signed).is_ok(),
            CheckingKey::Public(key) => key.verify(message, signed).is_ok(),
        };
        if is_good { Ok(()) } else { Err(signature::Error::new()) }
    }
}

impl JwtVerifier for Checking {
    fn algorithm(&self) -> Algorithm {
        self.0
    }
}
