//! Where requests may go.

use super::Findings;
use crate::schema::{Config, host_and_port, origin};

pub(super) fn rules(config: &Config, all: &mut Findings) {
    let egress = &config.egress;
    for (at, entry) in egress.allow.iter().enumerate() {
        all.refuse_if(
            host_and_port(entry).is_none(),
            "egress.allow.not_host_port",
            &format!("egress.allow[{at}]"),
            &format!("{entry:?} is not host:port; wildcards are not taken"),
            "name each host with its port, as \"api.example.org:443\"",
        );
    }
    for (at, entry) in egress.local.iter().enumerate() {
        all.refuse_if(
            origin(entry).is_none(),
            "egress.local.not_url",
            &format!("egress.local[{at}]"),
            &format!("{entry:?} is not http://host:port or https://host:port"),
            "name each service as \"http://localhost:11434\"",
        );
    }
    all.refuse_if(
        !egress.resolver.is_empty() && egress.resolver.parse::<std::net::SocketAddr>().is_err(),
        "egress.resolver.not_address",
        "egress.resolver",
        &format!("{:?} is not an address with a port", egress.resolver),
        "write it as \"9.9.9.9:53\"",
    );
    all.refuse_if(
        !egress.ca.is_empty() && !std::path::Path::new(&egress.ca).is_absolute(),
        "egress.ca.not_absolute",
        "egress.ca",
        &format!("{:?} is not an absolute path", egress.ca),
        "write the whole path",
    );
}
