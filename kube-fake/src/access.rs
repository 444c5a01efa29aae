//! Who may do what: bearer tokens with the rules of a Role, and the review of tokens.

use crate::failure::Failure;
use crate::path::Target;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Tokens at once.
const MAX_ACCOUNTS: usize = 10_000;

/// Whose a token is, and what it may do.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Such as `system:serviceaccount:default:cleat`.
    pub username: String,
    /// The audiences that the token is good for, besides the API server itself.
    pub audiences: Vec<String>,
    /// Name and uid of the pod that the token is bound to.
    pub pod: Option<(String, String)>,
    /// What it may do.
    pub access: Access,
}

/// What an account may do.
#[derive(Clone, Debug, Default)]
pub enum Access {
    /// Everything.
    #[default]
    All,
    /// What the `rules` of a Role say, in its namespace, or in all of them like a `ClusterRole`'s.
    Rules {
        /// Absent for a `ClusterRole`.
        namespace: Option<String>,
        /// A list of objects with `apiGroups`, `resources` and `verbs`, and perhaps `resourceNames`.
        rules: Value,
    },
}

/// Tokens and whose they are. Until the first is added everybody may do everything.
#[derive(Default)]
pub(crate) struct Accounts {
    by_token: BTreeMap<String, Account>,
    is_closed: bool,
}

impl Accounts {
    /// # Errors
    /// There are too many.
    pub(crate) fn add(&mut self, token: &str, account: Account) -> Result<(), Failure> {
        if self.by_token.len() >= MAX_ACCOUNTS {
            return Err(Failure::bad_request("too many accounts"));
        }
        self.by_token.insert(token.to_owned(), account);
        self.is_closed = true;
        Ok(())
    }

    pub(crate) fn remove(&mut self, token: &str) {
        self.by_token.remove(token);
    }

    /// # Errors
    /// The token is unknown or absent, or may not do that.
    pub(crate) fn check(&self, token: Option<&str>, verb: &str, target: &Target) -> Result<(), Failure> {
        if !self.is_closed {
            return Ok(());
        }
        let account = token.and_then(|token| self.by_token.get(token)).ok_or_else(Failure::unauthorized)?;
        if account.access.permits(verb, target) {
            return Ok(());
        }
        let place = if target.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{}\"", target.namespace)
        };
        Err(Failure::forbidden(format!(
            "{} is forbidden: User \"{}\" cannot {verb} resource \"{}\" in API group \"{}\" {place}",
            target.plural,
            account.username,
            resource(target),
            target.group
        )))
    }

    /// Answers a `TokenReview`.
    pub(crate) fn review(&self, mut request: Value) -> Value {
        let token = request["spec"]["token"].as_str().unwrap_or_default();
        let asked: Vec<&str> =
            request["spec"]["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let status = match self.by_token.get(token) {
            None => json!({"authenticated": false, "error": "invalid bearer token"}),
            Some(account) => {
                let shared: Vec<&str> =
                    asked.iter().copied().filter(|audience| account.audiences.iter().any(|a| a == audience)).collect();
                if shared.is_empty() && !asked.is_empty() {
                    json!({"authenticated": false, "error": "token audiences do not match"})
                } else {
                    json!({"authenticated": true, "user": account.user(), "audiences": shared})
                }
            }
        };
        request["status"] = status;
        request
    }
}

impl Account {
    fn user(&self) -> Value {
        let mut user = json!({"username": self.username, "groups": ["system:serviceaccounts", "system:authenticated"]});
        if let Some((name, uid)) = &self.pod {
            user["extra"] = json!({
                "authentication.kubernetes.io/pod-name": [name], "authentication.kubernetes.io/pod-uid": [uid],
            });
        }
        user
    }
}

impl Access {
    fn permits(&self, verb: &str, target: &Target) -> bool {
        let Self::Rules { namespace, rules } = self else { return true };
        if namespace.as_ref().is_some_and(|namespace| *namespace != target.namespace) {
            return false;
        }
        let has = |rule: &Value, field: &str, wanted: &str| {
            let values = rule[field].as_array();
            values.into_iter().flatten().any(|value| value == "*" || value == wanted)
        };
        rules.as_array().into_iter().flatten().any(|rule| {
            has(rule, "apiGroups", &target.group)
                && has(rule, "resources", &resource(target))
                && has(rule, "verbs", verb)
                && (rule.get("resourceNames").is_none() || has(rule, "resourceNames", &target.name))
        })
    }
}

/// The resource as rules name it: `pods/status` for a subresource.
fn resource(target: &Target) -> String {
    if target.subresource.is_empty() {
        target.plural.clone()
    } else {
        format!("{}/{}", target.plural, target.subresource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(namespace: &str, name: &str, subresource: &str) -> Target {
        Target {
            version: "v1".to_owned(),
            namespace: namespace.to_owned(),
            plural: "pods".to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            ..Target::default()
        }
    }

    #[test]
    fn rules_decide() {
        let mut accounts = Accounts::default();
        assert_eq!(accounts.check(None, "list", &pods("a", "", "")), Ok(()));
        let rules = json!([
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "get"]},
            {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"], "resourceNames": ["p-0"]},
        ]);
        let access = Access::Rules { namespace: Some("a".to_owned()), rules };
        accounts.add("t", Account { username: "me".to_owned(), access, ..Account::default() }).unwrap();
        assert_eq!(accounts.check(Some("t"), "list", &pods("a", "", "")), Ok(()));
        assert_eq!(accounts.check(Some("t"), "patch", &pods("a", "p-0", "status")), Ok(()));
        let code = |token, verb, target| accounts.check(token, verb, &target).unwrap_err().code;
        assert_eq!(code(None, "list", pods("a", "", "")), 401);
        assert_eq!(code(Some("x"), "list", pods("a", "", "")), 401);
        assert_eq!(code(Some("t"), "list", pods("b", "", "")), 403);
        assert_eq!(code(Some("t"), "list", pods("", "", "")), 403);
        assert_eq!(code(Some("t"), "delete", pods("a", "p-0", "")), 403);
        assert_eq!(code(Some("t"), "patch", pods("a", "p-1", "status")), 403);
        accounts.remove("t");
        let nobody = accounts.check(Some("t"), "list", &pods("a", "", ""));
        assert_eq!(nobody.unwrap_err().code, 401, "the last token opens nothing when it goes");
    }

    #[test]
    fn tokens_are_reviewed() {
        let mut accounts = Accounts::default();
        let account = Account {
            username: "me".to_owned(),
            audiences: vec!["metad".to_owned()],
            pod: Some(("p-0".to_owned(), "u".to_owned())),
            access: Access::All,
        };
        accounts.add("t", account).unwrap();
        let review = |token: &str, audiences: Value| {
            accounts.review(json!({"spec": {"token": token, "audiences": audiences}}))["status"].clone()
        };
        let known = review("t", json!(["metad", "other"]));
        assert_eq!(known["audiences"], json!(["metad"]));
        assert_eq!(known["user"]["extra"]["authentication.kubernetes.io/pod-uid"], json!(["u"]));
        assert_eq!(review("t", json!([]))["authenticated"], true);
        assert_eq!(review("t", json!(["other"]))["authenticated"], false);
        assert_eq!(review("x", json!(["metad"]))["authenticated"], false);
    }
}
