//! How messages with secrets are printed: without them. Passwords, their hashes and tokens must not reach a log, and what
//! has a `Debug` will be printed one day.

use crate::authpb::User;
use crate::cleatpb::Authentication;
use crate::etcdserverpb::{
    AuthUserAddRequest, AuthUserChangePasswordRequest, AuthenticateRequest, AuthenticateResponse,
};
use std::fmt::{Debug, Formatter, Result};

impl Debug for User {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (name, roles) = (&self.name, &self.roles);
        f.debug_struct("User").field("name", name).field("roles", roles).finish_non_exhaustive()
    }
}

impl Debug for AuthenticateRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AuthenticateRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Debug for AuthenticateResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AuthenticateResponse").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Debug for AuthUserAddRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (name, options) = (&self.name, &self.options);
        f.debug_struct("AuthUserAddRequest").field("name", name).field("options", options).finish_non_exhaustive()
    }
}

impl Debug for AuthUserChangePasswordRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AuthUserChangePasswordRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Debug for Authentication {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Authentication").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleatpb::command::Op;

    #[test]
    fn no_secret_is_printed() {
        let secret = || "s3cret".to_owned();
        let add = AuthUserAddRequest {
            name: "ann".to_owned(),
            password: secret(),
            hashed_password: secret(),
            ..AuthUserAddRequest::default()
        };
        let change =
            AuthUserChangePasswordRequest { name: "ann".to_owned(), password: secret(), hashed_password: secret() };
        let authentication =
            Authentication { name: "ann".to_owned(), password_sum: "s3cret".into(), token_sum: "s3cret".into() };
        let printed = [
            format!("{:?}", User { name: "ann".into(), password: "s3cret".into(), ..User::default() }),
            format!("{:?}", AuthenticateRequest { name: "ann".to_owned(), password: secret() }),
            format!("{:?}", AuthenticateResponse { header: None, token: secret() }),
            format!("{add:?} {:?}", Op::AuthUserAdd(add.clone())),
            format!("{change:?} {:?}", Op::AuthUserChangePassword(change.clone())),
            format!("{:?}", Op::Authentication(authentication)),
        ];
        for text in printed {
            assert!(!text.contains("s3cret"), "{text}");
        }
    }
}
