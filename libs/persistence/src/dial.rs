//! Reaching one of several hosts, whatever the others do.
//!
//! Called by: `session`. Why not the driver alone: it tries the hosts in turn, and its time limit is for the socket of one of
//! them. A host that takes connections and never answers (frozen, cut off), or whose packets get lost, would use up the
//! time of every attempt, and the database that has failed over to the next host would never be found. Invariant: a later
//! host is asked as soon as the earlier one has failed or has kept silent for [`HEAD_START`]; the first that takes the
//! session, as `target_session_attrs` asks, is it, and the others are let go. While one keeps silent, those that refused are
//! asked again: one of them may become the primary in the meantime.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::config::Host;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, Connection, Error, Socket};

/// How long a host is waited for before the next one is asked as well. A handshake within a data centre is over by then.
const HEAD_START: Duration = Duration::from_millis(100);

/// Distance of two attempts at a host that refuses while another one keeps silent: a standby may be the primary by then.
const AGAIN: Duration = Duration::from_millis(500);

/// What became of one attempt.
struct Attempt<S> {
    host: Config,
    /// Whether this host was asked for the first time.
    first: bool,
    reached: Result<(Client, Connection<Socket, S>), Error>,
}

/// A session with the first host that takes one. It fails when all have refused; the caller limits the time of it all.
pub(crate) async fn dial<T>(config: &Config, tls: T) -> Result<(Client, Connection<Socket, T::Stream>), Error>
where
    T: MakeTlsConnect<Socket> + Clone + Send + 'static,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let mut hosts = each_host(config).into_iter();
    let mut attempts = JoinSet::new();
    let ask = |host: Config, first: bool| {
        let tls = tls.clone();
        async move {
            if !first {
                tokio::time::sleep(AGAIN).await;
            }
            Attempt { reached: host.connect(tls).await, host, first }
        }
    };
    // Those that have not refused yet.
    let mut hopes = hosts.len();
    let mut next = hosts.next();
    loop {
        if let Some(host) = next.take() {
            attempts.spawn(ask(host, true));
        }
        tokio::select! {
            ended = attempts.join_next() => match ended {
                Some(Ok(Attempt { reached: Ok(reached), .. })) => return Ok(reached),
                Some(Ok(Attempt { reached: Err(error), host, first })) => {
                    if first {
                        hopes -= 1;
                        next = hosts.next();
                    }
                    if hopes == 0 {
                        return Err(error);
                    }
                    tracing::debug!(%error, "a host of the database did not take a session");
                    attempts.spawn(ask(host, false));
                }
                Some(Err(ended)) => {
                    if let Ok(panic) = ended.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
                // There is no host at all, which the driver says in its own words.
                None => return Box::pin(config.connect(tls.clone())).await,
            },
            () = tokio::time::sleep(HEAD_START), if hosts.len() > 0 => next = hosts.next(),
        }
    }
}

/// The same settings for each host alone, in their order. What names no two hosts, or does not fit together, is left to
/// the driver as it is.
fn each_host(config: &Config) -> Vec<Config> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let count = hosts.len();
    let fits = |len: usize, also: usize| len == count || len <= also;
    if count < 2 || !fits(addresses.len(), 0) || !fits(ports.len(), 1) {
        return vec![config.clone()];
    }
    let alone = |(index, host): (usize, &Host)| {
        let mut alone = without_hosts(config);
        match host {
            Host::Tcp(name) => drop(alone.host(name)),
            Host::Unix(path) => drop(alone.host_path(path)),
        }
        if let Some(address) = addresses.get(index) {
            alone.hostaddr(*address);
        }
        if let Some(port) = ports.get(index).or(ports.first()) {
            alone.port(*port);
        }
        alone
    };
    hosts.iter().enumerate().map(alone).collect()
}

/// Everything but hosts, addresses and ports: the driver can add those and not take them away.
fn without_hosts(config: &Config) -> Config {
    let mut copy = Config::new();
    if let Some(user) = config.get_user() {
        copy.user(user);
    }
    if let Some(password) = config.get_password() {
        copy.password(password);
    }
    if let Some(dbname) = config.get_dbname() {
        copy.dbname(dbname);
    }
    if let Some(options) = config.get_options() {
        copy.options(options);
    }
    if let Some(name) = config.get_application_name() {
        copy.application_name(name);
    }
    if let Some(limit) = config.get_connect_timeout() {
        copy.connect_timeout(*limit);
    }
    if let Some(limit) = config.get_tcp_user_timeout() {
        copy.tcp_user_timeout(*limit);
    }
    if let Some(interval) = config.get_keepalives_interval() {
        copy.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        copy.keepalives_retries(retries);
    }
    copy.ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding())
        .load_balance_hosts(config.get_load_balance_hosts());
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_has_every_setting() {
        let rest = "/meta?connect_timeout=3&tcp_user_timeout=4&keepalives=0&keepalives_idle=5&keepalives_interval=6\
                    &keepalives_retries=7&application_name=us&options=-c%20jit%3Doff&sslmode=require&sslnegotiation=direct\
                    &target_session_attrs=read-write&channel_binding=require&load_balance_hosts=random";
        let parse = |hosts: &str| format!("postgres://fleet:s3cret@{hosts}{rest}").parse::<Config>().unwrap();
        let all = parse("a:1,b:2,%2Frun:3");
        assert_eq!(each_host(&all), [parse("a:1"), parse("b:2"), parse("%2Frun:3")]);
        assert_eq!(each_host(&parse("a:1")), [parse("a:1")]);
    }
}
