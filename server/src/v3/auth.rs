//! The Auth service: users, roles, logins. Changes are proposals, what is read is read behind a barrier.

use super::status::{mismatched, status};
use crate::auth::password::check_brought;
use crate::auth::{Auth, Credentials};
use crate::node::Node;
use api::cleatpb::command::Op;
use api::error::Error;
use api::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse, AuthRoleAddRequest,
    AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse, AuthRoleGetRequest, AuthRoleGetResponse,
    AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, AuthStatusRequest, AuthStatusResponse,
    AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest, AuthUserChangePasswordResponse,
    AuthUserDeleteRequest, AuthUserDeleteResponse, AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest,
    AuthUserGrantRoleResponse, AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse, ResponseHeader,
};
use api::server::auth_server::Auth as AuthApi;
use store::{Asked, Reply};
use tonic::{Request, Response, Status};

pub(crate) struct AuthService {
    pub(crate) node: Node,
    pub(crate) auth: Auth,
}

impl AuthService {
    /// Proposes a change and returns the header of its answer.
    async fn change(&self, credentials: &Credentials, op: Op) -> Result<Option<ResponseHeader>, Status> {
        let outcome = self.auth.propose(credentials, op).await.map_err(status)?;
        match outcome.result.map_err(status)? {
            Reply::Auth => Ok(Some(self.node.header(outcome.revision))),
            _ => Err(mismatched(&self.node)),
        }
    }

    /// Waits until what was acknowledged can be read, and refuses what is not permitted then.
    async fn look(&self, credentials: &Credentials, asked: Asked<'_>) -> Result<(), Status> {
        self.node.read_barrier().await.map_err(status)?;
        self.auth.permit(credentials, asked).await.map(drop).map_err(status)
    }

    /// The hash of a new password. One that is given counts only without a password, so that etcd's clients, which know
    /// no other way, get what they ask for.
    async fn hashed(&self, password: &str, given: &str) -> Result<String, Status> {
        if password.is_empty() && !given.is_empty() {
            check_brought(given).map_err(status)?;
            return Ok(given.to_owned());
        }
        self.auth.hash(password).await.map_err(status)
    }
}

#[tonic::async_trait]
impl AuthApi for AuthService {
    async fn auth_enable(&self, request: Request<AuthEnableRequest>) -> Result<Response<AuthEnableResponse>, Status> {
        let credentials = Credentials::of(&request);
        let header = self.change(&credentials, Op::AuthEnable(request.into_inner())).await?;
        Ok(Response::new(AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<AuthDisableRequest>,
    ) -> Result<Response<AuthDisableResponse>, Status> {
        let credentials = Credentials::of(&request);
        let header = self.change(&credentials, Op::AuthDisable(request.into_inner())).await?;
        Ok(Response::new(AuthDisableResponse { header }))
    }

    async fn auth_status(&self, _: Request<AuthStatusRequest>) -> Result<Response<AuthStatusResponse>, Status> {
        self.node.read_barrier().await.map_err(status)?;
        let (enabled, auth_revision) = self.node.reader().auth_status();
        let header = Some(self.node.header(self.node.reader().revision()));
        Ok(Response::new(AuthStatusResponse { header, enabled, auth_revision }))
    }

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        let AuthenticateRequest { name, password } = request.into_inner();
        let (token, revision) = self.auth.authenticate(&name, &password).await.map_err(status)?;
        Ok(Response::new(AuthenticateResponse { header: Some(self.node.header(revision)), token }))
    }

    async fn user_add(&self, request: Request<AuthUserAddRequest>) -> Result<Response<AuthUserAddResponse>, Status> {
        let credentials = Credentials::of(&request);
        let mut request = request.into_inner();
        let no_password = request.options.is_some_and(|options| options.no_password);
        request.hashed_password =
            if no_password { String::new() } else { self.hashed(&request.password, &request.hashed_password).await? };
        // It goes no further than here.
        request.password.clear();
        let header = self.change(&credentials, Op::AuthUserAdd(request)).await?;
        Ok(Response::new(AuthUserAddResponse { header }))
    }

    async fn user_get(&self, request: Request<AuthUserGetRequest>) -> Result<Response<AuthUserGetResponse>, Status> {
        let credentials = Credentials::of(&request);
        let request = request.into_inner();
        self.look(&credentials, Asked::User(&request.name)).await?;
        let (roles, revision) = self.node.reader().roles_of(&request.name);
        let roles = roles.ok_or(Error::UserNotFound).map_err(status)?;
        Ok(Response::new(AuthUserGetResponse { header: Some(self.node.header(revision)), roles }))
    }

    async fn user_list(&self, request: Request<AuthUserListRequest>) -> Result<Response<AuthUserListResponse>, Status> {
        self.look(&Credentials::of(&request), Asked::Root).await?;
        let (users, revision) = self.node.reader().users();
        Ok(Response::new(AuthUserListResponse { header: Some(self.node.header(revision)), users }))
    }

    async fn user_delete(
        &self,
        request: Request<AuthUserDeleteRequest>,
    ) -> Result<Response<AuthUserDeleteResponse>, Status> {
        let credentials = Credentials::of(&request);
        let header = self.change(&credentials, Op::AuthUserDelete(request.into_inner())).await?;
        Ok(Response::new(AuthUserDeleteResponse { header }))
    }

    async fn user_change_password(
        &self,
        request: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        let credentials = Credentials::of(&request);
        let mut request = request.into_inner();
        request.hashed_password = self.hashed(&request.password, &request.hashed_password).await?;
        request.password.clear();
        let header = self.change(&credentials, Op::AuthUserChangePassword(request)).await?;
        Ok(Response::new(AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        let credentials = Credentials::of(&request);
        let header = self.change(&credentials, Op::AuthUserGrantRole(request.into_inner())).await?;
        Ok(Response::new(AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        let credentials = Credentials::of(&request);
        let header = self.change(&credentials, Op::AuthUserRevokeRole(request.into_inner())).await?;
        Ok(Response::new(AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(&self, request: Request<AuthRoleAddRequest>) -> Result<Response<AuthRoleAddResponse>, Status> {
        let credentials = Credentials::of(&request);
        let header = self.change(&credentials, Op::AuthRoleAdd(request.into_inner())).await?;
        Ok(Response::new(AuthRoleAddResponse { header }))
    }

    async fn role_get(&self, request: Request<AuthRoleGetRequest>) -> Result<Response<AuthRoleGetResponse>, Status> {
        let credentials = Credentials::of(&request);
        let request = request.into_inner();
        self.look(&credentials, Asked::Role(&request.role)).await?;
        let (perm, revision) = self.node.reader().permissions_of(&request.role);
        let perm = perm.ok_or(Error::RoleNotFound).map_err(status)?;
        Ok(Response::new(AuthRoleGetResponse { header: Some(self.node.header(revision)), perm }))
    }

    async fn role_list(&self, request: Request<AuthRoleListRequest>) -> Result<Response<AuthRoleListResponse>, Status> {
        self.look(&Credentials::of(&request), Asked::Root).await?;
        let (roles, revision) = self.node.reader().roles();
        Ok(Response::new(AuthRoleListResponse { header: Some(self.node.header(revision)), roles }))
    }

    async fn role_delete(
        &self,
        request: Request<AuthRoleDeleteRequest>,
    ) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        let credentials = Credentials::of(&request);
        let header = self.change(&credentials, Op::AuthRoleDelete(request.into_inner())).await?;
        Ok(Response::new(AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        let credentials = Credentials::of(&request);
        let header = self.change(&credentials, Op::AuthRoleGrantPermission(request.into_inner())).await?;
        Ok(Response::new(AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        let credentials = Credentials::of(&request);
        let header = self.change(&credentials, Op::AuthRoleRevokePermission(request.into_inner())).await?;
        Ok(Response::new(AuthRoleRevokePermissionResponse { header }))
    }
}
