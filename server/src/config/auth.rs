//! How users are known: tokens, passwords, names in certificates.

use super::parse;
use super::values::Values;
use crate::auth::jwt::JwtOptions;
use crate::auth::password::COSTS;
use std::time::Duration;

/// Life of a simple token.
const DEFAULT_TOKEN_TTL: Duration = Duration::from_mins(5);

const DEFAULT_BCRYPT_COST: u32 = 10;

/// How users are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthSettings {
    /// Names in client certificates are users: whoever brings no token is that one.
    pub names_are_users: bool,
    /// What tokens are; None means simple ones.
    pub jwt: Option<JwtOptions>,
    /// How long a simple token lives after it was used last.
    pub token_ttl: Duration,
    /// Cost of the hashes of new passwords.
    pub bcrypt_cost: u32,
}

impl AuthSettings {
    pub(super) fn from_values(values: &Values, warnings: &mut Vec<String>) -> Result<Self, String> {
        let token_ttl = match values.number::<u32>("auth-token-ttl") {
            // As in etcd.
            0 => DEFAULT_TOKEN_TTL,
            seconds => Duration::from_secs(seconds.into()),
        };
        Ok(Self {
            names_are_users: values.boolean("client-cert-auth"),
            jwt: jwt(values.text("auth-token"), warnings)?,
            token_ttl,
            bcrypt_cost: bcrypt_cost(values.number("bcrypt-cost"), warnings),
        })
    }
}

fn jwt(text: &str, warnings: &mut Vec<String>) -> Result<Option<JwtOptions>, String> {
    match text.split_once(',').unwrap_or((text, "")) {
        ("simple", _) => Ok(None),
        ("jwt", options) => {
            let (options, unknown) = JwtOptions::parse(options, parse::duration)?;
            warnings.extend(unknown);
            Ok(Some(options))
        }
        _ => Err(format!("--auth-token must be simple or jwt,sign-method=... (set to {text})")),
    }
}

/// As in etcd, a cost that bcrypt does not know is the default.
fn bcrypt_cost(cost: u32, warnings: &mut Vec<String>) -> u32 {
    if COSTS.contains(&cost) {
        return cost;
    }
    warnings.push(format!("bcrypt-cost {cost} is not between 4 and 31, {DEFAULT_BCRYPT_COST} is used"));
    DEFAULT_BCRYPT_COST
}
