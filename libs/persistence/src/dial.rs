//! Reaching one of several hosts, whatever the others do.
//!
//! Called by: `session`. Why not the driver alone: it tries the hosts in turn, and its time limit is for the socket of one of
//! them. A host that takes connections and never answers (frozen, cut off), or whose packets get lost, would use up the
//! time of every attempt, and the database that has failed over to the next host would never be found. Invariant: a later
//! host is asked as soon as the earlier one has failed or has kept silent for [`HEAD_START`]; the first that takes the
//! session, as `target_session_attrs` asks, is it, and the others are let go.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::config::Host;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, Connection, Error, Socket};

/// How long a host is waited for before the next one is asked as well. A handshake within a data centre is over by then.
const HEAD_START: Duration = Duration::from_millis(100);

/// A session with the first host that takes one. The caller limits the time of it all.
pub(crate) async fn dial<T>(config: &Config, tls: T) -> Result<(Client, Connection<Socket, T::Stream>), Error>
where
    T: MakeTlsConnect<Socket> + Clone + Send + 'static,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let mut hosts = each_host(config).into_iter();
    let mut attempts = JoinSet::new();
    loop {
        if let Some(host) = hosts.next() {
            let tls = tls.clone();
            attempts.spawn(async move { host.connect(tls).await });
        }
        tokio::select! {
            ended = attempts.join_next() => match ended {
                Some(Ok(Ok(reached))) => return Ok(reached),
                Some(Ok(Err(error))) if attempts.is_empty() && hosts.len() == 0 => return Err(error),
                Some(Ok(Err(error))) => tracing::debug!(%error, "a host of the database did not take a session"),
                Some(Err(ended)) => {
                    if let Ok(panic) = ended.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
                // There is no host at all, which the driver says in its own words.
                None => return Box::pin(config.connect(tls)).await,
            },
            () = tokio::time::sleep(HEAD_START), if hosts.len() > 0 => {}
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
