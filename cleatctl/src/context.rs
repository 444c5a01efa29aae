//! What a command is given: its flags and arguments, the connection that they describe, and the form of its output.

use crate::cli::{self, Flag, Personality, Values};
use crate::environment;
use crate::failure::{Failure, code, text_of};
use crate::globals::{self, is_secret};
use crate::http_get::http_get;
use crate::password;
use crate::people::cause_of;
use crate::print::{Format, Printer};
use crate::srv;
use client::{Client, Options, TlsOptions, User};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest request that etcdctl 3.4 sends.
const ETCDCTL_REQUEST_BYTES: usize = 2 << 20;

/// Whose requests these are, once it is known: a password is asked for once.
#[derive(Clone)]
enum Asked {
    NotYet,
    For(Option<User>),
}

/// One run of one command.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) path: cli::Path,
    /// Words that are neither flags nor commands.
    pub(crate) args: Vec<OsString>,
    /// All words behind the program's name, as they were given.
    pub(crate) words: Vec<OsString>,
    values: Values,
    has_environment: bool,
    /// Endpoints that DNS told.
    discovered: Option<Vec<String>>,
    user: Asked,
}

impl Context {
    pub(crate) fn new(path: cli::Path, values: Values, args: Vec<OsString>, words: Vec<OsString>) -> Self {
        Self { path, args, words, values, has_environment: false, discovered: None, user: Asked::NotYet }
    }

    pub(crate) fn personality(&self) -> Personality {
        self.path.personality
    }

    /// True if nothing more and nothing else than etcdctl does is wanted.
    pub(crate) fn is_etcdctl(&self) -> bool {
        self.personality() == Personality::Etcdctl
    }

    /// Why a call failed, in the middle of a line: in etcdctl's words under its name.
    pub(crate) fn why(&self, error: &client::Error) -> String {
        why(self.personality(), error)
    }

    /// An argument, which may be any bytes.
    pub(crate) fn arg(&self, index: usize) -> Option<&[u8]> {
        self.args.get(index).map(|arg| arg.as_bytes())
    }

    /// An argument that is a name, a number or a path in a message.
    pub(crate) fn text(&self, index: usize) -> String {
        self.args.get(index).map(|arg| arg.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// True if the flag was given, or the environment has it.
    pub(crate) fn is_set(&self, flag: &Flag) -> bool {
        self.values.is_set(flag.name)
    }

    pub(crate) fn switch(&self, flag: &Flag) -> bool {
        self.values.switch(flag)
    }

    pub(crate) fn string(&self, flag: &Flag) -> String {
        self.values.string(flag)
    }

    /// The value, None if it is empty.
    pub(crate) fn given(&self, flag: &Flag) -> Option<String> {
        Some(self.string(flag)).filter(|value| !value.is_empty())
    }

    pub(crate) fn bytes(&self, flag: &Flag) -> Vec<u8> {
        self.values.bytes(flag)
    }

    /// A path, which may be no UTF-8; None if it is empty.
    pub(crate) fn file(&self, flag: &Flag) -> Option<PathBuf> {
        Some(PathBuf::from(OsStr::from_bytes(&self.bytes(flag)))).filter(|path| !path.as_os_str().is_empty())
    }

    pub(crate) fn int(&self, flag: &Flag) -> i64 {
        self.values.int(flag)
    }

    pub(crate) fn uint(&self, flag: &Flag) -> u64 {
        self.values.uint(flag)
    }

    pub(crate) fn list(&self, flag: &Flag) -> Vec<String> {
        self.values.list(flag)
    }

    /// Zero for one below zero.
    pub(crate) fn duration(&self, flag: &Flag) -> Duration {
        self.values.duration(flag).unwrap_or_default()
    }

    pub(crate) fn values_mut(&mut self) -> &mut Values {
        &mut self.values
    }

    /// Takes what the environment says of flags that were not given.
    ///
    /// # Errors
    /// Both say something, for etcdctl; a value that is none, for `cleatctl`.
    pub(crate) fn read_environment(&mut self) -> Result<(), Failure> {
        if !std::mem::replace(&mut self.has_environment, true) {
            environment::read(self)?;
            if self.switch(&globals::DEBUG) {
                self.show_globals();
            }
        }
        Ok(())
    }

    fn show_globals(&self) {
        for flag in self.path.inherited() {
            let value = match flag.name {
                name if is_secret(name) => "***".to_owned(),
                // One with a password is refused, but only afterwards.
                name if name == globals::ENDPOINTS.name => {
                    self.string(flag).split(',').map(client::without_user).collect::<Vec<_>>().join(",")
                }
                _ => self.string(flag),
            };
            tell!("{}={value}", environment::name(flag.name));
        }
    }

    /// The form of the output.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn printer(&self) -> Result<Printer, Failure> {
        let format = Format::of(&self.string(&globals::WRITE_OUT))
            .ok_or_else(|| Failure::new(code::BAD_FEATURE, self.unsupported_format()))?;
        Ok(Printer::new(format, self.switch(&globals::HEX)))
    }

    fn unsupported_format(&self) -> String {
        let names = format!("; -w takes one of {}", globals::WRITE_OUT.values.join(", "));
        format!("unsupported output format{}", if self.is_etcdctl() { "" } else { &names })
    }

    /// The endpoints as they were given, or as DNS told them.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        if let Some(discovered) = &self.discovered {
            return discovered.clone();
        }
        let mut endpoints: Vec<_> =
            self.list(&globals::ENDPOINTS).iter().map(|endpoint| endpoint.trim().to_owned()).collect();
        // What a comma at the end leaves is none, as long as there is another one.
        if endpoints.iter().any(|endpoint| !endpoint.is_empty()) {
            endpoints.retain(|endpoint| !endpoint.is_empty());
        }
        endpoints
    }

    /// Longest time for a command that is no transfer.
    pub(crate) fn timeout(&self) -> Duration {
        self.duration(&globals::COMMAND_TIMEOUT)
    }

    /// The connection that the flags describe, with its user signed in, and the form of the output.
    ///
    /// # Errors
    /// With etcdctl's exit codes for each: a format that is none, certificates that cannot be used, a user that is
    /// refused.
    pub(crate) async fn connect(&mut self) -> Result<(Client, Printer), Failure> {
        self.discover().await?;
        // etcdctl asks for the password before it looks at the format, and at the files of a pair behind it.
        self.certificate_files()?;
        self.ask_user().await?;
        let printer = self.printer()?;
        let endpoints = self.endpoints();
        Ok((self.connect_to(&endpoints).await?, printer))
    }

    /// Takes what the environment says, and asks DNS for the endpoints if that is wanted.
    ///
    /// # Errors
    /// As [`Context::read_environment`]; DNS has none.
    pub(crate) async fn discover(&mut self) -> Result<(), Failure> {
        self.read_environment()?;
        let Some(domain) = self.given(&globals::DISCOVERY_SRV).filter(|_| self.discovered.is_none()) else {
            return Ok(());
        };
        let name = self.given(&globals::DISCOVERY_SRV_NAME);
        let found = srv::endpoints(&domain, name.as_deref(), self.switch(&globals::INSECURE_DISCOVERY)).await;
        // Those that are left out leave the flag's.
        self.discovered = Some(found.map_err(|why| Failure::new(code::ERROR, why))?).filter(|found| !found.is_empty());
        Ok(())
    }

    /// The same connection to other endpoints.
    ///
    /// # Errors
    /// As [`Context::connect`].
    pub(crate) async fn connect_to(&mut self, endpoints: &[String]) -> Result<Client, Failure> {
        let options = self.options(endpoints).await?;
        let client = client(&options)?;
        if options.user.is_some() {
            let signed_in = client.sign_in().await;
            signed_in.map_err(|error| Failure::from(error).with_code(code::BAD_CONNECTION))?;
        }
        Ok(client)
    }

    /// A client of one endpoint, whose calls sign in: that the endpoint does not answer is theirs to say.
    ///
    /// # Errors
    /// As [`Context::options`].
    pub(crate) async fn client_of(&mut self, endpoint: &str) -> Result<Client, Failure> {
        client(&self.options(&[endpoint.to_owned()]).await?)
    }

    /// The same connection without its user, for what needs none.
    ///
    /// # Errors
    /// As [`Context::connect`].
    pub(crate) fn connect_without_user(&mut self, endpoints: &[String]) -> Result<Client, Failure> {
        client(&self.options_without_user(endpoints)?)
    }

    /// The body of what an endpoint has at a path, by plain HTTP or with the certificates of the connection.
    ///
    /// # Errors
    /// It cannot be asked, or answers with an error.
    pub(crate) async fn http_get(&mut self, endpoint: &str, path: &str) -> anyhow::Result<String> {
        let failed = |failure: Failure| anyhow::anyhow!(failure.text.unwrap_or_default());
        let options = self.options_without_user(&[endpoint.to_owned()]).map_err(failed)?;
        // With the scheme that the options gave it, as for calls.
        let answer = http_get(&options, &options.endpoints[0], path).await.map_err(anyhow::Error::msg)?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// What a client is made from. Asks for the password if it must, once.
    ///
    /// # Errors
    /// There is no password, or a file's name is empty.
    pub(crate) async fn options(&mut self, endpoints: &[String]) -> Result<Options, Failure> {
        let mut options = self.options_without_user(endpoints)?;
        self.ask_user().await?;
        if let Asked::For(user) = &self.user {
            options.user.clone_from(user);
        }
        Ok(options)
    }

    async fn ask_user(&mut self) -> Result<(), Failure> {
        if let Asked::NotYet = self.user {
            self.user = Asked::For(self.read_user().await?);
        }
        Ok(())
    }

    /// The files of certificate, key and authorities. Names that are empty are none.
    fn certificate_files(&self) -> Result<[Option<PathBuf>; 3], Failure> {
        let file = |flag: &Flag| match self.file(flag) {
            None if self.is_set(flag) => {
                Err(Failure::bad_args(format!("empty string is passed to --{} option", flag.name)))
            }
            file => Ok(file),
        };
        Ok([file(&globals::CERT)?, file(&globals::KEY)?, file(&globals::CACERT)?])
    }

    /// The largest request, and the largest answer.
    ///
    /// # Errors
    /// They do not go together.
    pub(crate) fn message_bytes(&self) -> Result<(usize, usize), Failure> {
        let bytes = |flag: &Flag| usize::try_from(self.int(flag)).ok().filter(|bytes| *bytes > 0);
        let (request, answer) = (bytes(&globals::MAX_REQUEST_BYTES), bytes(&globals::MAX_RECV_BYTES));
        match (request, answer) {
            (Some(request), Some(answer)) if request > answer => {
                // etcdctl's words.
                let text = format!(
                    "gRPC message recv limit ({answer} bytes) must be greater than send limit ({request} bytes)"
                );
                Err(Failure::new(code::BAD_CONNECTION, text))
            }
            _ => {
                let any = Options::default();
                let most = if self.is_etcdctl() { ETCDCTL_REQUEST_BYTES } else { any.max_request_bytes };
                Ok((request.unwrap_or(most), answer.unwrap_or(any.max_answer_bytes)))
            }
        }
    }

    fn options_without_user(&mut self, endpoints: &[String]) -> Result<Options, Failure> {
        self.read_environment()?;
        let [cert_file, key_file, ca_file] = self.certificate_files()?;
        if cert_file.is_some() != key_file.is_some() {
            return Err(Failure::bad_args(half_a_pair(self.personality(), cert_file.as_deref(), key_file.as_deref())));
        }
        let insecure_skip_verify = self.switch(&globals::INSECURE_SKIP_TLS_VERIFY);
        // What the certificate of a server that was found by DNS must say.
        let server_name = self.given(&globals::DISCOVERY_SRV).filter(|_| !self.switch(&globals::INSECURE_DISCOVERY));
        let wants_tls = cert_file.is_some()
            || key_file.is_some()
            || ca_file.is_some()
            || server_name.is_some()
            || !self.switch(&globals::INSECURE_TRANSPORT);
        let tls = TlsOptions { ca_file, cert_file, key_file, server_name, insecure_skip_verify };
        // How to check certificates does not say that there are any.
        let endpoints = endpoints.iter().map(|endpoint| {
            let is_plain = !wants_tls && !endpoint.contains("://");
            if is_plain { format!("http://{endpoint}") } else { endpoint.clone() }
        });
        let (max_request_bytes, max_answer_bytes) = self.message_bytes()?;
        Ok(Options {
            endpoints: endpoints.collect(),
            tls: (wants_tls || insecure_skip_verify).then_some(tls),
            user: None,
            token: self.given(&globals::AUTH_JWT_TOKEN),
            dial_timeout: self.duration(&globals::DIAL_TIMEOUT),
            request_timeout: self.timeout(),
            keepalive_time: self.duration(&globals::KEEPALIVE_TIME),
            keepalive_timeout: self.duration(&globals::KEEPALIVE_TIMEOUT),
            max_request_bytes,
            max_answer_bytes,
        })
    }

    /// As etcdctl reads the flags: next to `--password` a colon belongs to the name.
    async fn read_user(&self) -> Result<Option<User>, Failure> {
        let password = self.given(&globals::PASSWORD);
        if self.is_set(&globals::AUTH_JWT_TOKEN) && (password.is_some() || self.given(&globals::USER).is_some()) {
            return Err(Failure::bad_args("--auth-jwt-token is instead of --user and --password; give one of both"));
        }
        let Some(user) = self.given(&globals::USER) else {
            if password.is_some() && !self.is_etcdctl() {
                return Err(Failure::bad_args("a password is given for nobody; name the user with --user"));
            }
            return Ok(None);
        };
        let with = |name: &str, password: String| User { name: name.to_owned(), password };
        Ok(Some(match (password, user.split_once(':')) {
            (Some(password), _) => with(&user, password),
            (None, Some((name, password))) => with(name, password.to_owned()),
            (None, None) if self.is_etcdctl() => with(&user, password::ask_openly("Password: ").await?),
            (None, None) => with(&user, password::ask("Password: ").await?),
        }))
    }
}

/// The error for a certificate without its key, or a key without its certificate.
pub(crate) fn half_a_pair(personality: Personality, cert: Option<&Path>, key: Option<&Path>) -> String {
    let shown = |file: Option<&Path>| file.map(|file| file.display().to_string()).unwrap_or_default();
    match (personality, key) {
        (Personality::Etcdctl, _) => {
            format!("KeyFile and CertFile must both be present[key: {}, cert: {}]", shown(key), shown(cert))
        }
        (Personality::Cleatctl, None) => format!("the certificate {} needs its key; name that, too", shown(cert)),
        (Personality::Cleatctl, Some(_)) => format!("the key {} needs its certificate; name that, too", shown(key)),
    }
}

/// As [`Context::why`].
pub(crate) fn why(personality: Personality, error: &client::Error) -> String {
    let text = text_of(error);
    if personality == Personality::Etcdctl { text } else { cause_of(error, &text) }
}

/// The client of these options. Files that cannot be used are bad arguments, in etcdctl's words.
pub(crate) fn client(options: &Options) -> Result<Client, Failure> {
    let bad = match Client::new(options) {
        Ok(client) => return Ok(client),
        Err(error) => error,
    };
    let code = match bad {
        client::Error::TlsFile { ref path, .. } if !path.exists() => {
            return Err(Failure::bad_args(format!("open {}: no such file or directory", path.display())));
        }
        client::Error::TlsFile { .. } | client::Error::Tls(_) | client::Error::BadToken => code::BAD_ARGS,
        client::Error::NoEndpoints => code::BAD_CONNECTION,
        _ => code::ERROR,
    };
    Err(Failure::from(bad).with_code(code))
}
