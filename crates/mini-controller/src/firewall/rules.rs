//! What the firewall says, as text for the tools that load it. Pure.
//!
//! A container reaches the world, its own app's network, the platform's public ports and the
//! resolver; not the host's other services, not the cloud's metadata, not another app. There are
//! only drops: an `accept` here ends our own chain and grants nothing that another table refuses.

use std::fmt::Write;
use std::net::IpAddr;

/// Metadata and the agents' back doors of clouds. They are no part of the world: link-local
/// (AWS, Google, Azure and most others, also AWS' container credentials at 169.254.170.2),
/// Alibaba's 100.100.100.200 and Azure's 168.63.129.16.
const METADATA_V4: [&str; 3] = ["169.254.0.0/16", "100.100.100.200", "168.63.129.16"];
/// AWS' metadata over IPv6.
const METADATA_V6: &str = "fd00:ec2::254";
/// What every server's bridges begin with.
const EVERY_BRIDGE: &str = "mini";
/// The engine's own bridge: builds run there.
const BUILD_BRIDGE: &str = "docker0";

/// Whom the firewall holds, and what it lets them reach of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirewallRules {
    /// The server's id: the table's name carries it, so that several servers share a host.
    pub server: String,
    /// What the interfaces of this server's bridges begin with.
    pub bridges: String,
    /// The platform's public TCP ports.
    pub ports: Vec<u16>,
    /// Whether builds, on the engine's own bridge, are held too: only if the engine is ours alone.
    pub builds: bool,
}

impl FirewallRules {
    /// The nftables table.
    pub fn table(&self) -> String {
        format!("mini-{}", self.server)
    }

    fn interfaces(&self, any: char) -> Vec<String> {
        let mut all = vec![format!("{}{any}", self.bridges)];
        if self.builds {
            all.push(BUILD_BRIDGE.to_owned());
        }
        all
    }

    /// The whole table for `nft -f -`: in one transaction it replaces the one that is there.
    pub(super) fn nft(&self, resolvers: &[IpAddr]) -> String {
        let mut dns = String::new();
        for address in resolvers {
            let family = if address.is_ipv4() { "ip" } else { "ip6" };
            for protocol in ["udp", "tcp"] {
                let _ = writeln!(dns, "    {family} daddr {address} {protocol} dport 53 accept");
            }
        }
        let jumps = |to: &str| -> String {
            let all = self.interfaces('*').into_iter();
            all.map(|name| format!("    iifname \"{name}\" jump {to}\n")).collect()
        };
        let mut ports = self.ports.clone();
        ports.sort_unstable();
        ports.dedup();
        let ports: String =
            ports.iter().map(|port| format!("    tcp dport {port} accept\n")).collect();
        let (to_host, to_others) = (jumps("from_app"), jumps("leaves_app"));
        let metadata = METADATA_V4.join(", ");
        // The route to the destination leads elsewhere than where the packet came from: another
        // app's bridge. (Packets within one bridge come by here if the kernel filters bridges.)
        format!(
            "{}table inet {table} {{\n\
             \x20 chain to_host {{\n\
             \x20   type filter hook input priority -10; policy accept;\n\
             {to_host}\
             \x20 }}\n\
             \x20 chain from_app {{\n\
             \x20   ct state established,related accept\n\
             {dns}{ports}\
             \x20   drop\n\
             \x20 }}\n\
             \x20 chain to_others {{\n\
             \x20   type filter hook forward priority -10; policy accept;\n\
             {to_others}\
             \x20 }}\n\
             \x20 chain leaves_app {{\n\
             \x20   ct state established,related accept\n\
             {dns}\
             \x20   ip daddr {{ {metadata} }} drop\n\
             \x20   ip6 daddr {METADATA_V6} drop\n\
             \x20   oifname \"{EVERY_BRIDGE}*\" fib daddr . iif oif missing drop\n\
             \x20   iifname != \"{BUILD_BRIDGE}\" oifname \"{BUILD_BRIDGE}\" drop\n\
             \x20 }}\n\
             }}\n",
            self.nft_removal(),
            table = self.table(),
        )
    }

    /// Removes the table, there or not. (`delete` alone fails if there is none.)
    pub(super) fn nft_removal(&self) -> String {
        let table = self.table();
        format!("add table inet {table}\ndelete table inet {table}\n")
    }

    /// The chains of the iptables form: to the host, and to others. At most 28 characters.
    pub(super) fn chains(&self) -> [String; 2] {
        let id: String = self.server.chars().take(16).collect();
        [format!("MINI-{id}-IN"), format!("MINI-{id}-FW")]
    }

    /// The interfaces whose packets go through the chains, as iptables writes them.
    pub(super) fn iptables_interfaces(&self) -> Vec<String> {
        self.interfaces('+')
    }

    /// Both chains for `iptables-restore --noflush`, which fills them in one transaction. No
    /// IPv6: apps' networks have none.
    pub(super) fn iptables(&self, resolvers: &[IpAddr]) -> String {
        let [input, forward] = self.chains();
        let mut text = format!("*filter\n:{input} - [0:0]\n:{forward} - [0:0]\n");
        for chain in [&input, &forward] {
            let _ =
                writeln!(text, "-A {chain} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN");
            for address in resolvers.iter().filter(|a| a.is_ipv4()) {
                for protocol in ["udp", "tcp"] {
                    let _ = writeln!(
                        text,
                        "-A {chain} -d {address}/32 -p {protocol} --dport 53 -j RETURN"
                    );
                }
            }
        }
        for port in &self.ports {
            let _ = writeln!(text, "-A {input} -p tcp --dport {port} -j RETURN");
        }
        let _ = writeln!(text, "-A {input} -j DROP");
        for address in METADATA_V4 {
            let _ = writeln!(text, "-A {forward} -d {address} -j DROP");
        }
        let _ = writeln!(text, "-A {forward} -m physdev --physdev-is-bridged -j RETURN");
        let _ = writeln!(text, "-A {forward} -o {EVERY_BRIDGE}+ -j DROP");
        let _ = writeln!(text, "-A {forward} ! -i {BUILD_BRIDGE} -o {BUILD_BRIDGE} -j DROP");
        text.push_str("COMMIT\n");
        text
    }
}

/// The resolvers that containers are told of: those of `/etc/resolv.conf` but for loopback, which
/// the engine asks for them.
pub(super) fn resolvers(resolv_conf: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let address: IpAddr =
            words.next().filter(|word| *word == "nameserver").and(words.next())?.parse().ok()?;
        (!address.is_loopback()).then_some(address)
    };
    resolv_conf.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> FirewallRules {
        FirewallRules {
            server: "0123456789abcdef".into(),
            bridges: "mini0123".into(),
            ports: vec![443, 80, 80],
            builds: false,
        }
    }

    #[test]
    fn the_table_replaces_itself_and_drops_what_is_not_named() {
        let text = rules().nft(&["10.0.0.2".parse().unwrap(), "fd00::53".parse().unwrap()]);
        assert!(text.starts_with(
            "add table inet mini-0123456789abcdef\ndelete table inet mini-0123456789abcdef\ntable inet"
        ));
        for line in [
            "iifname \"mini0123*\" jump from_app",
            "iifname \"mini0123*\" jump leaves_app",
            "tcp dport 80 accept\n    tcp dport 443 accept\n    drop",
            "ip daddr 10.0.0.2 udp dport 53 accept",
            "ip6 daddr fd00::53 tcp dport 53 accept",
            "169.254.0.0/16",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("iifname \"docker0\" jump"), "the engine is others' too: {text}");
        let alone = FirewallRules { builds: true, ..rules() }.nft(&[]);
        assert!(alone.contains("iifname \"docker0\" jump from_app"), "{alone}");
        assert!(!alone.contains("dport 53"), "{alone}");
    }

    #[test]
    fn chains_of_iptables_have_names_that_it_takes() {
        for chain in rules().chains() {
            assert!(chain.len() <= 28, "{chain}");
        }
        let text = rules().iptables(&["10.0.0.2".parse().unwrap()]);
        let drop = text.find("-A MINI-0123456789abcdef-IN -j DROP").unwrap();
        assert!(text.find("--dport 443").unwrap() < drop, "{text}");
        assert!(text.ends_with("COMMIT\n"));
    }

    #[test]
    fn resolvers_are_those_that_containers_ask() {
        let text = "# x\nnameserver 10.0.0.2\nsearch a\nnameserver 127.0.0.53\nnameserver bad\n";
        assert_eq!(resolvers(text), ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        assert!(resolvers("nameserver ::1\n").is_empty());
    }
}
