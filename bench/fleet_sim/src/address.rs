//! Which agent an address is: agent `n` is `127.1.0.0 + n`. All of 127.0.0.0/8 is the loopback interface's, so no address
//! has to be set up, and nothing else listens on these.

use std::net::{IpAddr, Ipv4Addr};

/// The address of agent 0. What is below is left to other programs.
const FIRST: u32 = u32::from_be_bytes([127, 1, 0, 0]);

/// How many agents one process can be: as many as there are addresses.
pub const MOST_AGENTS: u32 = u32::from_be_bytes([127, 255, 255, 255]) - FIRST;

/// The address of agent `n`. Panics above [`MOST_AGENTS`].
#[must_use]
pub fn address_of(n: u32) -> Ipv4Addr {
    assert!(n < MOST_AGENTS, "there are addresses for {MOST_AGENTS} agents, and {n} is none of them");
    Ipv4Addr::from(FIRST + n)
}

/// The agent that has this address; none below agent 0 and outside the loopback network.
#[must_use]
pub fn agent_at(address: IpAddr) -> Option<u32> {
    let IpAddr::V4(address) = address.to_canonical() else { return None };
    u32::from(address).checked_sub(FIRST).filter(|n| *n < MOST_AGENTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (n, text) in [(0, "127.1.0.0"), (255, "127.1.0.255"), (256, "127.1.1.0"), (99_999, "127.2.134.159")] {
            assert_eq!(address_of(n).to_string(), text);
            assert_eq!(agent_at(text.parse().unwrap()), Some(n));
        }
        assert_eq!(agent_at(address_of(MOST_AGENTS - 1).into()), Some(MOST_AGENTS - 1));
        for none in ["127.0.0.1", "127.0.255.255", "127.255.255.255", "128.0.0.0", "10.0.0.1", "::1"] {
            assert_eq!(agent_at(none.parse().unwrap()), None, "{none}");
        }
        assert_eq!(agent_at("::ffff:127.1.0.7".parse().unwrap()), Some(7));
    }
}
