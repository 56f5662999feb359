//! Domains, maintenance and pages: they make no release, and are with the proxy when the answer
//! comes.

use mini_api::client::ClientError;
use mini_api::{ErrorCode, NewDomain, NewPage};

use super::*;

fn red() -> AppName {
    "red".parse().unwrap()
}

fn new(name: &str) -> NewDomain {
    NewDomain { name: name.into() }
}

fn code(error: ClientError) -> (ErrorCode, String) {
    match error {
        ClientError::Api(body, _) => (body.code, body.message),
        other => panic!("{other}"),
    }
}

impl House {
    fn hosts(&self, app: &AppName) -> Vec<String> {
        let route = self.proxy.route(app);
        route.into_iter().flat_map(|r| r.hosts).map(String::from).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_is_routed_when_the_answer_comes_and_makes_no_release() {
    let house = House::with_blue().await;
    house.create("red").await;
    let client = &house.client;
    let added = client.add_domain(&blue(), &new("www.shop.localhost")).await.unwrap();
    assert!(added.changed && added.routed && added.taken_from.is_none(), "{added:?}");
    assert_eq!(house.hosts(&blue()), ["www.shop.localhost"]);
    let again = client.add_domain(&blue(), &new("WWW.shop.localhost.")).await.unwrap();
    assert!(!again.changed && again.routed, "{again:?}");

    let taken = client.add_domain(&red(), &new("www.shop.localhost")).await.unwrap_err();
    let (kind, message) = code(taken);
    assert_eq!(kind, ErrorCode::NameTaken);
    assert!(message.contains("belongs to the app blue"), "{message}");
    let wild = client.add_domain(&red(), &new("*.shop.localhost")).await.unwrap();
    assert!(wild.routed && wild.taken_from.is_none(), "{wild:?}");
    let below = client.add_domain(&blue(), &new("api.shop.localhost")).await.unwrap();
    assert_eq!(below.taken_from, Some(red()));
    for bad in ["red.localhost", "localhost", "1.2.3.4", "a b", "*.com", "bücher.de", ""] {
        let refused = client.add_domain(&blue(), &new(bad)).await.unwrap_err();
        assert_eq!(code(refused).0, ErrorCode::InvalidName, "{bad}");
    }

    let app = client.app(&blue()).await.unwrap();
    let names: Vec<_> = app.domains.iter().map(|d| d.as_str()).collect();
    assert_eq!(names, ["api.shop.localhost", "www.shop.localhost"]);
    assert_eq!(app.urls[0], "http://api.shop.localhost:8080");
    let red_urls = client.app(&red()).await.unwrap().urls;
    assert_eq!(red_urls, ["http://red.localhost:8080"], "a wildcard is no address");

    let removed = client.remove_domain(&red(), "*.shop.localhost").await.unwrap();
    assert!(removed.routed && house.hosts(&red()).is_empty(), "{removed:?}");
    let missing = client.remove_domain(&red(), "*.shop.localhost").await.unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    assert_eq!(client.releases(&blue(), 10).await.unwrap().releases.len(), 1);

    // A name that became the platform's own leads to its app no more.
    client.destroy_app(&blue(), false).await.unwrap();
    super::rollouts::gone(&house).await;
    assert!(client.add_domain(&red(), &new("www.shop.localhost")).await.unwrap().changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_became_the_platforms_leads_to_no_app() {
    let mut house = House::with_blue().await;
    house.client.add_domain(&blue(), &new("www.shop.localhost")).await.unwrap();
    house.kill().await;
    let mut config = house.config();
    config.domains.push("shop.localhost".parse().unwrap());
    house.start_with(config).await;
    let routed = || async { house.hosts(&blue()).is_empty().then_some(()) };
    until(SOON, "the new table", routed).await;
    let kept = house.client.domains(&blue(), false).await.unwrap();
    assert_eq!(kept.domains.len(), 1, "and is still said to be blue's");
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_begins_even_while_the_engine_is_away() {
    let house = House::with_blue().await;
    house.settles_on(1).await;
    house.engine.set_reachable(false);
    let on = || house.proxy.route(&blue()).unwrap().rules.maintenance;
    let done = house.client.set_maintenance(&blue(), true).await.unwrap();
    assert!(done.changed && done.routed && on(), "{done:?}");
    assert_eq!(house.proxy.serving(&blue()).len(), 1, "the instance is still a target");
    assert!(house.client.app(&blue()).await.unwrap().maintenance);
    house.engine.set_reachable(true);
    let done = house.client.set_maintenance(&blue(), true).await.unwrap();
    assert!(!done.changed && done.routed && on(), "{done:?}");
    let done = house.client.set_maintenance(&blue(), false).await.unwrap();
    assert!(done.changed && done.routed && !on(), "{done:?}");
    assert!(house.log(&blue()).await.contains(&"Maintenance on".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_small_html_for_codes_that_there_are() {
    let house = House::with_blue().await;
    let client = &house.client;
    let page = |html: &str| NewPage { html: html.into() };
    let done = client.set_page(&blue(), "h80", &page("<h1>")).await.unwrap();
    assert!(done.changed && done.routed, "{done:?}");
    client.set_page(&blue(), "*", &page("<p>")).await.unwrap();
    let pages = house.proxy.route(&blue()).unwrap().rules.pages;
    assert_eq!(pages, [("*".into(), "<p>".into()), ("H80".to_owned(), "<h1>".to_owned())]);
    for (code_, html, kind) in [
        ("H99", "<p>", ErrorCode::InvalidRequest),
        ("*", "", ErrorCode::InvalidRequest),
        ("*", "a\0b", ErrorCode::InvalidRequest),
        ("*", &"x".repeat(65_537), ErrorCode::TooLarge),
    ] {
        let refused = client.set_page(&blue(), code_, &page(html)).await.unwrap_err();
        assert_eq!(code(refused).0, kind, "{code_}");
    }
    let listed = client.pages(&blue()).await.unwrap().pages;
    let listed: Vec<_> = listed.iter().map(|p| (p.code.as_str(), p.bytes)).collect();
    assert_eq!(listed, [("*", 3), ("H80", 4)]);
    assert!(client.unset_page(&blue(), "*").await.unwrap().routed);
    assert!(client.unset_page(&blue(), "*").await.unwrap_err().is_not_found());
    assert_eq!(house.proxy.route(&blue()).unwrap().rules.pages.len(), 1);
}
