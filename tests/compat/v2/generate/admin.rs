//! Requests to everything but the keys: members, statistics, users and roles while authentication is off, and paths that
//! are not there.

use super::super::op::Request;
use super::Generator;
use rand::Rng as _;

const JSON: &str = "application/json";

impl Generator {
    /// Nothing here changes the members: a second one that does not run would stop the cluster.
    pub(super) fn members_or_stats(&mut self) -> Request {
        let paths = [
            "/v2/members",
            "/v2/members/",
            "/v2/members/leader",
            "/v2/members/leader/",
            "/v2/members/@U@",
            "/v2/members/404",
            "/v2/members/x",
            "/v2/machines",
            "/v2/machines/",
            "/v2/stats/self",
            "/v2/stats/leader",
            "/v2/stats/store",
            "/v2/stats/",
            "/v2/stats",
            "/version",
        ];
        let path = self.pick(&paths);
        match self.rng.random_range(0..10) {
            0..5 => Request::new("GET", path),
            5 => Request::new(self.pick(&["HEAD", "OPTIONS", "PATCH"]), path),
            // A member that exists is not removed.
            6 => Request::new(
                "DELETE",
                self.pick(&["/v2/members/404", "/v2/members/x", "/v2/members", "/v2/stats/self"]),
            ),
            _ => self.wrong_member(),
        }
    }

    /// Adds or updates a member in a way that is refused.
    fn wrong_member(&mut self) -> Request {
        let bodies = [
            "{}",
            "",
            "{\"peerURLs\":[]}",
            "{\"peerURLs\":[\"http://127.0.0.1\"]}",
            "{\"peerURLs\":[\"x\"]}",
            "{\"peerURLs\":[\"ftp://127.0.0.1:1\"]}",
            "{\"peerURLs\":[\"http://127.0.0.1:1/path\"]}",
            "{\"peerURLs\":[\"@P@\"]}",
            "{\"peerURLs\":\"http://127.0.0.1:1\"}",
            "{\"peerURLs\":[7]}",
            "[]",
            "{\"peerURLs\"",
        ];
        let body = self.pick(&bodies);
        let (method, path) = match self.rng.random_range(0..5) {
            0..3 => ("POST", self.pick(&["/v2/members", "/v2/members/"])),
            3 => ("PUT", self.pick(&["/v2/members/404", "/v2/members/x", "/v2/members"])),
            _ => ("POST", self.pick(&["/v2/members/404", "/v2/stats/self", "/v2/machines"])),
        };
        let content_type =
            if self.one_in(5) { self.pick(&["text/plain", "", "application/json; charset=utf-8"]) } else { JSON };
        Request::new(method, path).with_body(content_type, body)
    }

    pub(super) fn user_or_role(&mut self) -> Request {
        let user = self.pick(&["u1", "u2", "root", "guest"]);
        let role = self.pick(&["r1", "r2", "root", "guest"]);
        match self.rng.random_range(0..20) {
            0 => Request::new("GET", self.pick(&["/v2/auth/users", "/v2/auth/users/", "/v2/auth/enable"])),
            1 => Request::new(
                "GET",
                self.pick(&["/v2/auth", "/v2/auth/", "/v2/auth/users/a/b", "/v2/auth/roles/a/b", "/v2/auth/x"]),
            ),
            2..4 => Request::new("GET", format!("/v2/auth/users/{user}")),
            4..6 => Request::new("GET", format!("/v2/auth/roles/{role}")),
            6 => Request::new("DELETE", format!("/v2/auth/users/{user}")),
            7 => Request::new("DELETE", format!("/v2/auth/roles/{role}")),
            8..13 => {
                let body = self.user(user);
                Request::new("PUT", format!("/v2/auth/users/{user}")).with_body(JSON, body)
            }
            13..18 => {
                let body = self.role(role);
                Request::new("PUT", format!("/v2/auth/roles/{role}")).with_body(JSON, body)
            }
            18 => Request::new("DELETE", "/v2/auth/enable"),
            _ => Request::new(self.pick(&["POST", "PATCH", "HEAD"]), format!("/v2/auth/users/{user}")),
        }
    }

    fn user(&mut self, user: &str) -> String {
        let more = self.pick(&[
            ",\"password\":\"p\"",
            ",\"password\":\"q\"",
            "",
            ",\"password\":\"\"",
            ",\"password\":\"p\",\"roles\":[\"r1\"]",
            ",\"roles\":[\"r1\",\"r2\"]",
            ",\"grant\":[\"r1\"]",
            ",\"revoke\":[\"r1\"]",
            ",\"grant\":[\"r1\",\"r1\"]",
            ",\"grant\":[\"r2\"],\"revoke\":[\"r1\"]",
            ",\"roles\":[\"r1\"],\"grant\":[\"r2\"]",
            ",\"grant\":[]",
            ",\"unknown\":1",
            ",\"password\":7",
        ]);
        let name = if self.one_in(15) { "other" } else { user };
        let end = if self.one_in(20) { self.pick(&["", "}}", "} x"]) } else { "}" };
        format!("{{\"user\":\"{name}\"{more}{end}")
    }

    fn role(&mut self, role: &str) -> String {
        let more = self.pick(&[
            "",
            ",\"permissions\":{\"kv\":{\"read\":[\"/a/*\"],\"write\":[\"/b\"]}}",
            ",\"permissions\":{\"kv\":{\"read\":[],\"write\":[]}}",
            ",\"permissions\":{}",
            ",\"grant\":{\"kv\":{\"read\":[\"/a/*\"],\"write\":[]}}",
            ",\"grant\":{\"kv\":{\"read\":[],\"write\":[\"/b\",\"/c\"]}}",
            ",\"revoke\":{\"kv\":{\"read\":[\"/a/*\"]}}",
            ",\"revoke\":{\"kv\":{\"write\":[\"/b\"]}}",
            ",\"grant\":{\"kv\":{\"read\":[\"/d\"]}},\"revoke\":{\"kv\":{\"write\":[\"/b\"]}}",
            ",\"permissions\":{\"kv\":{\"read\":[\"/a\"]}},\"grant\":{\"kv\":{\"read\":[\"/d\"]}}",
        ]);
        let name = if self.one_in(15) { "other" } else { role };
        format!("{{\"role\":\"{name}\"{more}}}")
    }

    /// Paths around those that exist.
    pub(super) fn elsewhere(&mut self) -> Request {
        let paths = [
            "/v2",
            "/v2/",
            "/v2/foo",
            "/v2/keysfoo",
            "/v2/membersfoo",
            "/v2/stats/x",
            "/v2/auth/enable/x",
            "/v1/keys",
            "/",
            "/v2//keys",
        ];
        let method = self.pick(&["GET", "GET", "PUT", "HEAD"]);
        Request::new(method, self.pick(&paths))
    }
}
