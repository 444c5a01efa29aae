//! Certificates in Secrets, made and renewed: an authority, and what it signs.
//!
//! An authority is replaced in steps, each of which is a run on another day, so that members have read the files of one
//! step before the next: the next authority is trusted beside the old one; then it signs; and the old one is forgotten
//! when nothing that it signed is valid any more.

use crate::kube::{Api, Secret};
use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use ring::digest::{SHA256, digest};

/// When the certificate in a Secret ends; and what it was made of.
const NOT_AFTER: &str = "cleat/not-after";
const MADE_OF: &str = "cleat/made-of";
/// When an authority was made.
const MADE_AT: &str = "cleat/made-at";
/// For those whose clock is behind.
const BACKDATED: TimeDelta = TimeDelta::hours(1);
/// From being trusted to signing. The kubelet takes about a minute to show pods new files.
const TRUSTED_BEFORE_SIGNING: TimeDelta = TimeDelta::hours(12);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// URL of the Kubernetes API, instead of the one that the pod is told
    #[arg(long, value_name = "URL")]
    api_server: Option<String>,
    /// Namespace of the Secrets
    #[arg(long)]
    namespace: String,
    /// Secret of the authority
    #[arg(long, value_name = "SECRET")]
    authority: String,
    /// A certificate for servers: its Secret, and its names and addresses
    #[arg(long, value_name = "SECRET=NAME,...", value_parser = named)]
    server: Vec<(String, Vec<String>)>,
    /// A certificate for members, which are servers and clients of each other
    #[arg(long, value_name = "SECRET=NAME,...", value_parser = named)]
    peer: Vec<(String, Vec<String>)>,
    /// A certificate for a client: its Secret, and its user
    #[arg(long, value_name = "SECRET=USER", value_parser = named)]
    client: Vec<(String, Vec<String>)>,
    /// How long an authority is valid
    #[arg(long, value_name = "DAYS", default_value_t = 3650, value_parser = clap::value_parser!(i64).range(1..=36500))]
    authority_days: i64,
    /// How long a certificate is valid
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(i64).range(1..=3650))]
    days: i64,
    /// How long before its end a certificate is renewed
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(i64).range(1..=3650))]
    renew_before_days: i64,
}

fn named(text: &str) -> Result<(String, Vec<String>), String> {
    let (secret, names) = text.split_once('=').ok_or("write SECRET=NAME,...")?;
    let names: Vec<String> = names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if secret.is_empty() || names.is_empty() {
        return Err(format!("{text:?} lacks the Secret or a name; write SECRET=NAME,..."));
    }
    Ok((secret.to_owned(), names))
}

/// What a certificate is for.
#[derive(Clone, Copy)]
enum Use {
    Server,
    Peer,
    Client,
}

impl Use {
    fn purposes(self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Self::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Self::Peer => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Self::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        }
    }
}

/// Makes what is missing, and renews what ends soon.
///
/// # Errors
/// The Kubernetes API refuses, or a name cannot be in a certificate. What was written before stays, and a further run goes on.
pub(crate) async fn keep(args: &Args) -> Result<()> {
    let api = Api::new(args.api_server.as_deref(), &args.namespace)?;
    let now = Utc::now().trunc_subsecs(0);
    let found = api.secret(&args.authority).await?;
    let mut authority = found.unwrap_or_else(|| Secret::new(&args.authority));
    if settle(&mut authority, args, now)? {
        api.write(&authority).await?;
        say!("{}: written", args.authority);
    }
    let all = [(Use::Server, &args.server), (Use::Peer, &args.peer), (Use::Client, &args.client)];
    for (purpose, list) in all {
        for (name, hosts) in list {
            let mut secret = api.secret(name).await?.unwrap_or_else(|| Secret::new(name));
            if renew(&mut secret, purpose, hosts, &authority, args, now)? {
                api.write(&secret).await?;
                say!("{name}: written, valid until {}", secret.annotations[NOT_AFTER]);
            } else {
                say!("{name}: valid until {}", secret.annotations[NOT_AFTER]);
            }
        }
    }
    Ok(())
}

fn time(secret: &Secret, annotation: &str) -> Option<DateTime<Utc>> {
    let text = secret.annotations.get(annotation)?;
    Some(DateTime::parse_from_rfc3339(text).ok()?.to_utc())
}

/// When a certificate ends, by what it says itself.
fn end_of(pem: &str) -> Result<DateTime<Utc>> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).context("it is no PEM")?;
    let ends = pem.parse_x509().context("it is no certificate")?.validity().not_after.timestamp();
    DateTime::from_timestamp(ends, 0).context("its end is no time")
}

/// When the authority in a Secret ends; none if the Secret has neither certificate nor key.
///
/// # Errors
/// It has something else. What others may rely on is not replaced by a guess.
fn authority_end(secret: &Secret) -> Result<Option<DateTime<Utc>>> {
    let remedy = "put it right, or delete the Secret to have an authority made";
    match (secret.data.get("tls.crt"), secret.data.get("tls.key")) {
        (None, None) => Ok(None),
        (Some(cert), Some(_)) => {
            end_of(cert).map(Some).with_context(|| format!("tls.crt of the Secret {}: {remedy}", secret.name))
        }
        _ => bail!("the Secret {} lacks one of tls.crt and tls.key: {remedy}", secret.name),
    }
}

/// Brings the authority's Secret to the step that is due. True if it changed.
fn settle(secret: &mut Secret, args: &Args, now: DateTime<Utc>) -> Result<bool> {
    let has = |secret: &Secret, key: &str| secret.data.contains_key(key);
    let Some(ends) = authority_end(secret)?.filter(|ends| *ends > now) else {
        let (cert, key) = make_authority(args, now)?;
        secret.data.clear();
        secret
            .data
            .extend([("ca.crt", cert.clone()), ("tls.crt", cert), ("tls.key", key)].map(|(k, v)| (k.to_owned(), v)));
        stamp(secret, now, now + TimeDelta::days(args.authority_days));
        return Ok(true);
    };
    let made = time(secret, MADE_AT).unwrap_or(now);
    if has(secret, "next.crt") {
        if now - made < TRUSTED_BEFORE_SIGNING {
            return Ok(false);
        }
        // The old one stays trusted, until nothing that it signed is valid.
        for (to, from) in [("tls.crt", "next.crt"), ("tls.key", "next.key")] {
            let value = secret.data.remove(from).with_context(|| format!("{}: no {from}", secret.name))?;
            secret.data.insert(to.to_owned(), value);
        }
        let ends = end_of(&secret.data["tls.crt"]).with_context(|| format!("{}: next.crt", secret.name))?;
        stamp(secret, now, ends);
        return Ok(true);
    }
    if ends - now < TimeDelta::days(2 * args.days) {
        let (cert, key) = make_authority(args, now)?;
        let both = format!("{}{cert}", secret.data["tls.crt"]);
        secret.data.extend([("ca.crt", both), ("next.crt", cert), ("next.key", key)].map(|(k, v)| (k.to_owned(), v)));
        secret.annotations.insert(MADE_AT.to_owned(), now.to_rfc3339());
        return Ok(true);
    }
    if secret.data.get("ca.crt") != secret.data.get("tls.crt") && now - made > TimeDelta::days(args.days) {
        secret.data.insert("ca.crt".to_owned(), secret.data["tls.crt"].clone());
        return Ok(true);
    }
    Ok(false)
}

fn stamp(secret: &mut Secret, now: DateTime<Utc>, ends: DateTime<Utc>) {
    secret.annotations.insert(MADE_AT.to_owned(), now.to_rfc3339());
    secret.annotations.insert(NOT_AFTER.to_owned(), ends.to_rfc3339());
}

/// Puts a new certificate into a Secret, if the one there ends soon, or is of other names or another authority. True if it did.
fn renew(
    secret: &mut Secret,
    purpose: Use,
    hosts: &[String],
    authority: &Secret,
    args: &Args,
    now: DateTime<Utc>,
) -> Result<bool> {
    let part = |key: &str| authority.data.get(key).with_context(|| format!("{}: no {key}", authority.name));
    let (trusted, signer) = (part("ca.crt")?, part("tls.crt")?);
    let made_of = hash(&[&hosts.join(","), signer]);
    let is_good = time(secret, NOT_AFTER).is_some_and(|ends| ends - now > TimeDelta::days(args.renew_before_days))
        && secret.annotations.get(MADE_OF) == Some(&made_of)
        && secret.data.contains_key("tls.crt")
        && secret.data.contains_key("tls.key");
    if is_good && secret.data.get("ca.crt") == Some(trusted) {
        return Ok(false);
    }
    if !is_good {
        let names = if matches!(purpose, Use::Client) { &[] } else { hosts };
        let mut params = CertificateParams::new(names).with_context(|| format!("{}: {hosts:?}", secret.name))?;
        // A common name is at most 64 characters.
        let common_name = hosts[0].chars().take(64).collect::<String>();
        params.distinguished_name = distinguished(&common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = purpose.purposes();
        params.use_authority_key_identifier_extension = true;
        limit(&mut params, now, args.days)?;
        let issuer = Issuer::new(authority_params(args, now)?, KeyPair::from_pem(part("tls.key")?)?);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        secret.data.insert("tls.crt".to_owned(), certificate.pem());
        secret.data.insert("tls.key".to_owned(), key.serialize_pem());
        secret.annotations.insert(MADE_OF.to_owned(), made_of);
        stamp(secret, now, now + TimeDelta::days(args.days));
    }
    secret.data.insert("ca.crt".to_owned(), trusted.clone());
    Ok(true)
}

/// Certificate and key of an authority.
fn make_authority(args: &Args, now: DateTime<Utc>) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let certificate = authority_params(args, now)?.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// All authorities have the same name; their keys tell them apart.
fn authority_params(args: &Args, now: DateTime<Utc>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = distinguished(&args.authority.chars().take(64).collect::<String>());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    limit(&mut params, now, args.authority_days)?;
    Ok(params)
}

fn distinguished(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn limit(params: &mut CertificateParams, now: DateTime<Utc>, days: i64) -> Result<()> {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since = |time: DateTime<Utc>| time.signed_duration_since(DateTime::UNIX_EPOCH).to_std();
    params.not_before = epoch + since(now - BACKDATED)?;
    params.not_after = epoch + since(now + TimeDelta::days(days))?;
    Ok(())
}

fn hash(parts: &[&str]) -> String {
    let joined = parts.join("\n");
    crate::s3::hex(&digest(&SHA256, joined.as_bytes()).as_ref()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> Args {
        Args {
            api_server: None,
            namespace: "n".to_owned(),
            authority: "kv-ca".to_owned(),
            server: Vec::new(),
            peer: Vec::new(),
            client: Vec::new(),
            authority_days: 365,
            days: 90,
            renew_before_days: 30,
        }
    }

    fn hosts(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn certificates_are_renewed_when_they_must_be_and_not_before() {
        let (args, now) = (args(), Utc::now());
        let mut authority = Secret::new("kv-ca");
        assert!(settle(&mut authority, &args, now).unwrap());
        assert!(!settle(&mut authority, &args, now).unwrap());
        let mut secret = Secret::new("kv-tls");
        let names = hosts(&["kv.store.svc", "*.kv.store.svc", "127.0.0.1", "::1"]);
        let mut renew_at = |names: &[String], authority: &Secret, days: i64| {
            renew(&mut secret, Use::Server, names, authority, &args, now + TimeDelta::days(days)).unwrap()
        };
        assert!(renew_at(&names, &authority, 0));
        assert!(!renew_at(&names, &authority, 59));
        assert!(renew_at(&names, &authority, 60));
        assert!(!renew_at(&names, &authority, 61));
        assert!(renew_at(&names[1..], &authority, 61));
        let mut other = Secret::new("kv-ca");
        settle(&mut other, &args, now).unwrap();
        assert!(renew_at(&names[1..], &other, 61));
        assert!(renew(&mut Secret::new("x"), Use::Server, &hosts(&["\u{e4}"]), &other, &args, now).is_err());
    }

    #[test]
    fn an_authority_is_replaced_in_steps() {
        let (args, now) = (args(), Utc::now());
        let at = |days: i64, hours: i64| now + TimeDelta::days(days) + TimeDelta::hours(hours);
        let mut authority = Secret::new("kv-ca");
        settle(&mut authority, &args, now).unwrap();
        let old = authority.data["tls.crt"].clone();
        assert!(!settle(&mut authority, &args, at(184, 0)).unwrap());
        // The next one is trusted, and does not sign.
        assert!(settle(&mut authority, &args, at(186, 0)).unwrap());
        let next = authority.data["next.crt"].clone();
        assert_eq!(authority.data["ca.crt"], format!("{old}{next}"));
        assert_eq!(authority.data["tls.crt"], old);
        assert!(!settle(&mut authority, &args, at(186, 11)).unwrap());
        // It signs, and the old one is trusted.
        assert!(settle(&mut authority, &args, at(187, 0)).unwrap());
        assert_eq!(authority.data["tls.crt"], next);
        assert!(authority.data["ca.crt"].contains(&old));
        assert!(!settle(&mut authority, &args, at(187 + 89, 0)).unwrap());
        // Nothing that the old one signed is valid any more.
        assert!(settle(&mut authority, &args, at(187 + 91, 0)).unwrap());
        assert_eq!(authority.data["ca.crt"], next);
        assert!(!settle(&mut authority, &args, at(187 + 92, 0)).unwrap());
        // One that was forgotten until it ended is made anew.
        assert!(settle(&mut authority, &args, at(1000, 0)).unwrap());
        assert_eq!(authority.data["ca.crt"], authority.data["tls.crt"]);
    }

    #[test]
    fn an_authority_that_is_good_or_cannot_be_read_stays() {
        let (args, now) = (args(), Utc::now().trunc_subsecs(0));
        let mut authority = Secret::new("kv-ca");
        settle(&mut authority, &args, now).unwrap();
        let data = authority.data.clone();
        // Somebody restored the Secret without its annotations, or brought an authority along.
        authority.annotations.clear();
        assert!(!settle(&mut authority, &args, now).unwrap());
        assert_eq!(authority.data, data);
        for (key, text) in [("tls.crt", Some("no PEM")), ("tls.key", None)] {
            let mut broken = authority.clone();
            match text {
                Some(text) => drop(broken.data.insert(key.to_owned(), text.to_owned())),
                None => drop(broken.data.remove(key)),
            }
            let before = broken.data.clone();
            let error = format!("{:#}", settle(&mut broken, &args, now).unwrap_err());
            assert!(error.contains("kv-ca") && error.contains("delete the Secret"), "{error}");
            assert_eq!(broken.data, before);
        }
        // One that waited for its turn ends by its own date, not by that of its promotion.
        let at = |days: i64| now + TimeDelta::days(days);
        assert!(settle(&mut authority, &args, at(186)).unwrap());
        assert!(settle(&mut authority, &args, at(200)).unwrap());
        assert_eq!(time(&authority, NOT_AFTER), Some(at(186 + 365)));
    }

    #[test]
    fn names_are_given_with_their_secret() {
        assert_eq!(named("a=b,c"), Ok(("a".to_owned(), hosts(&["b", "c"]))));
        for text in ["a", "=b", "a=", "a=,"] {
            assert!(named(text).is_err(), "{text}");
        }
    }
}
