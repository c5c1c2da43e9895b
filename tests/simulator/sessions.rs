//! Tests of logins, logouts, and everything else that ends a session.

use super::*;

#[tokio::test]
async fn only_the_service_content_is_readable_without_a_session() {
    let lab = Lab::start(Scenario::lab().unwrap()).await;
    let reply = lab.call("RetrieveServiceContent", "ServiceInstance", "ServiceInstance", "").await;
    let content = reply.returned();
    assert_eq!(content.descend(&["about", "apiType"]).unwrap().text(), "HostAgent");
    assert_eq!(content.descend(&["about", "apiVersion"]).unwrap().text(), "7.0.3.0");
    assert_eq!(content.child_text("sessionManager"), Some("ha-sessionmgr"));
    let read = "<specSet><propSet><type>SessionManager</type><pathSet>currentSession</pathSet></propSet>\
                <objectSet><obj type=\"SessionManager\">ha-sessionmgr</obj></objectSet></specSet><options/>";
    let reply =
        lab.call("RetrievePropertiesEx", "PropertyCollector", "ha-property-collector", read).await;
    assert!(reply.returned().descend(&["objects", "propSet"]).is_none());
    let reply = lab.fetch("VirtualMachine", "16", "name").await;
    assert_eq!((reply.status, reply.fault().as_deref()), (500, Some("NotAuthenticated")));
    let versions = lab.client.get(format!("{}/sdk/vimServiceVersions.xml", lab.simulator.url()));
    let versions = Document::parse(&versions.send().await.unwrap().bytes().await.unwrap()).unwrap();
    assert_eq!(versions.root().descend(&["namespace", "version"]).unwrap().text(), "7.0.3.0");
    lab.simulator.stop().await;
}

#[tokio::test]
async fn a_refused_login_returns_an_unusable_cookie() {
    let mut lab = Lab::start(Scenario::lab().unwrap()).await;
    let reply = lab.login("root", "wrong").await.unwrap();
    assert_eq!((reply.status, reply.fault().as_deref()), (500, Some("InvalidLogin")));
    lab.cookie = reply.cookie;
    assert!(lab.cookie.is_some());
    assert_eq!(lab.login("root", "otter").await.unwrap().fault().as_deref(), Some("InvalidLogin"));
    lab.cookie = None;
    lab.log_in().await;
    assert_eq!(lab.power_state("16").await, "poweredOff");
    lab.cookie = lab.cookie.map(|cookie| cookie.replace('"', ""));
    assert_eq!(lab.power_state("16").await, "poweredOff");
}

#[tokio::test]
async fn five_wrong_tries_lock_the_account_for_a_while() {
    let mut lab = Lab::start(Scenario::lab().unwrap()).await;
    for _ in 0..5 {
        assert!(lab.login("root", "wrong").await.unwrap().fault().is_some());
    }
    assert_eq!(lab.login("root", "otter").await.unwrap().fault().as_deref(), Some("InvalidLogin"));
    lab.clock.advance(Duration::from_mins(15));
    lab.log_in().await;
}

#[tokio::test]
async fn sessions_end_when_idle_but_not_while_they_wait() {
    let lab = Lab::stepped().await;
    lab.clock.advance(Duration::from_mins(29));
    assert_eq!(lab.power_state("16").await, "poweredOff");
    lab.watch_machines(&["name"]).await;
    let version = lab.new_updates("").await.version();
    let wait = lab.updates(&version, "<maxWaitSeconds>3000</maxWaitSeconds>");
    let advance_time = async {
        lab.control().until(|control| control.pending_waits() == 1).await;
        lab.clock.advance(Duration::from_mins(50));
    };
    let (reply, ()) = bounded(async { tokio::join!(wait, advance_time) }).await;
    assert!(reply.is_empty_answer());
    assert_eq!(lab.power_state("16").await, "poweredOff");
    lab.clock.advance(Duration::from_mins(30));
    assert_eq!(
        lab.fetch("VirtualMachine", "16", "name").await.fault().as_deref(),
        Some("NotAuthenticated")
    );
}

#[tokio::test]
async fn logout_and_termination_end_a_session() {
    let mut lab = Lab::stepped().await;
    let first = lab.cookie.take();
    lab.log_in().await;
    let reply = lab.fetch("SessionManager", "ha-sessionmgr", "currentSession").await;
    let key = reply.returned().child_text("key").unwrap().to_owned();
    let terminate = format!("<sessionId>{key}</sessionId>");
    let own = lab.call("TerminateSession", "SessionManager", "ha-sessionmgr", &terminate).await;
    assert_eq!(own.fault().as_deref(), Some("InvalidArgument"));
    let second = std::mem::replace(&mut lab.cookie, first);
    assert!(
        lab.call("TerminateSession", "SessionManager", "ha-sessionmgr", &terminate)
            .await
            .is_empty_answer()
    );
    assert_eq!(lab.control().sessions(), 1);
    assert!(lab.call("Logout", "SessionManager", "ha-sessionmgr", "").await.is_empty_answer());
    lab.cookie = second;
    assert_eq!(
        lab.fetch("VirtualMachine", "16", "name").await.fault().as_deref(),
        Some("NotAuthenticated")
    );
    assert_eq!(lab.control().sessions(), 0);
}

#[tokio::test]
async fn a_lost_session_is_reported_in_each_configured_way() {
    let lab = Lab::stepped().await;
    lab.control().expire_sessions();
    let read = format!("<specSet>{}</specSet><options/>", {
        "<propSet><type>VirtualMachine</type><pathSet>name</pathSet></propSet><objectSet>\
         <obj type=\"VirtualMachine\">16</obj></objectSet>"
    });
    let read_names =
        || lab.call("RetrievePropertiesEx", "PropertyCollector", "ha-property-collector", &read);
    assert_eq!(read_names().await.fault().as_deref(), Some("NotAuthenticated"));
    lab.control().set_session_loss(SessionLoss::EmptyAnswer);
    assert!(read_names().await.is_empty_answer());
    assert_eq!(lab.new_updates("").await.fault().as_deref(), Some("RequestCanceled"));
    lab.control().set_session_loss(SessionLoss::MissingSet);
    let reply = read_names().await;
    let fault = reply.returned().descend(&["objects", "missingSet", "fault", "fault"]).unwrap();
    assert_eq!(fault.type_name(), Some("NotAuthenticated"));
    lab.control().set_session_loss(SessionLoss::NoCollector);
    assert_eq!(lab.new_updates("").await.fault().as_deref(), Some("ManagedObjectNotFound"));
}
