//! An app's own bridge: explicit subnet, named interface, no IPv6.

use std::collections::HashMap;

use bollard::models::{
    Ipam, IpamConfig, Network, NetworkCreateRequest, NetworkDisconnectRequest, NetworkInspect,
};
use bollard::query_parameters::{
    InspectContainerOptions, InspectNetworkOptions, ListNetworksOptions, ListNetworksOptionsBuilder,
};
use mini_core::name::AppName;
use mini_core::ports::{NetworkSpec, RuntimeError, RuntimeErrorKind, RuntimeResult};
use mini_core::subnet::Subnet;

use crate::engine::{Docker, LOOK, MAKE};
use crate::labels;

fn words(app: &AppName) -> String {
    format!("the network of {app}")
}

impl Docker {
    pub(crate) async fn make_network(&self, spec: NetworkSpec) -> RuntimeResult<()> {
        let _one_at_a_time = self.inner.network_gate.lock().await;
        let what = words(&spec.app);
        let conflict = |said: String| RuntimeError::new(RuntimeErrorKind::Conflict, said);
        if let Some(found) = self.our_network(&spec.app).await? {
            return match subnets(found.ipam).as_slice() {
                [subnet] if *subnet == spec.subnet => Ok(()),
                other => Err(conflict(format!(
                    "{what} is there with the subnet {}, not {}",
                    other.first().map_or("none".to_owned(), Subnet::to_string),
                    spec.subnet
                ))),
            };
        }
        let name = labels::network_name(self.server(), &spec.app);
        // Two servers may share their first four characters; engines before 1.44 would make a
        // second network of the same name.
        match self.inspect_network(&what, &name).await {
            Err(error) if error.kind == RuntimeErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(_) => {
                return Err(conflict(format!("{what}: {name} is there and belongs to another")));
            }
        }
        let request = NetworkCreateRequest {
            name,
            driver: Some("bridge".to_owned()),
            enable_ipv6: Some(false),
            ipam: Some(Ipam {
                config: Some(vec![IpamConfig {
                    subnet: Some(spec.subnet.to_string()),
                    gateway: Some(spec.subnet.gateway().to_string()),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            options: Some(HashMap::from([(
                "com.docker.network.bridge.name".to_owned(),
                labels::bridge_name(self.server(), spec.subnet),
            )])),
            labels: Some(labels::of_network(self.server(), &spec.app)),
            ..Default::default()
        };
        self.call(&what, MAKE, |api| api.create_network(request)).await?;
        Ok(())
    }

    pub(crate) async fn drop_network(&self, app: AppName) -> RuntimeResult<()> {
        let what = words(&app);
        let Some(id) = self.our_network(&app).await?.and_then(|network| network.id) else {
            return Ok(());
        };
        let attached = match self.inspect_network(&what, &id).await {
            Ok(found) => found.containers.unwrap_or_default(),
            Err(error) if error.kind == RuntimeErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for container in attached.into_keys() {
            self.detach_ours(&what, &id, container).await?;
        }
        match self.call(&what, MAKE, |api| api.remove_network(&id)).await {
            Err(error) if error.kind == RuntimeErrorKind::NotFound => Ok(()),
            // 403 "has active endpoints": somebody else's container is on it.
            Err(error) if error.message.contains("active endpoints") => Err(RuntimeError::new(
                RuntimeErrorKind::Conflict,
                format!("{what} is used by a container that is not ours"),
            )
            .hint("see which: docker network inspect")),
            other => other,
        }
    }

    /// Takes a container off a network if it is ours; others' are left alone.
    async fn detach_ours(&self, what: &str, network: &str, container: String) -> RuntimeResult<()> {
        let inspected = self
            .call(what, LOOK, |api| {
                api.inspect_container(&container, None::<InspectContainerOptions>)
            })
            .await;
        let labels = match inspected {
            Ok(found) => found.config.and_then(|config| config.labels).unwrap_or_default(),
            Err(error) if error.kind == RuntimeErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if !labels::is_ours(&labels, self.server(), labels::KIND_INSTANCE) {
            return Ok(());
        }
        let request = NetworkDisconnectRequest { container, force: Some(true) };
        match self.call(what, MAKE, |api| api.disconnect_network(network, request)).await {
            Err(error) if error.kind == RuntimeErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    pub(crate) async fn apps_with_network(&self) -> RuntimeResult<Vec<AppName>> {
        let found = self.list_networks(&[]).await?;
        let app = |network: Network| network.labels?.get(labels::APP)?.parse().ok();
        let mut apps: Vec<AppName> = found.into_iter().filter_map(app).collect();
        apps.sort();
        apps.dedup();
        Ok(apps)
    }

    pub(crate) async fn every_subnet(&self) -> RuntimeResult<Vec<Subnet>> {
        let all = self
            .call("the engine's networks", LOOK, |api| {
                api.list_networks(None::<ListNetworksOptions>)
            })
            .await?;
        Ok(all.into_iter().flat_map(|network| subnets(network.ipam)).collect())
    }

    async fn our_network(&self, app: &AppName) -> RuntimeResult<Option<Network>> {
        let found = self.list_networks(&[(labels::APP, app.as_str())]).await?;
        Ok(found.into_iter().next())
    }

    async fn list_networks(&self, extra: &[(&str, &str)]) -> RuntimeResult<Vec<Network>> {
        let filters = labels::filters(self.server(), labels::KIND_NETWORK, extra);
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        self.call("the apps' networks", LOOK, |api| api.list_networks(Some(options))).await
    }

    async fn inspect_network(&self, what: &str, name: &str) -> RuntimeResult<NetworkInspect> {
        self.call(what, LOOK, |api| api.inspect_network(name, None::<InspectNetworkOptions>)).await
    }
}

/// The IPv4 subnets of a network.
fn subnets(ipam: Option<Ipam>) -> Vec<Subnet> {
    let configs = ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    configs.into_iter().filter_map(|config| config.subnet?.parse().ok()).collect()
}
