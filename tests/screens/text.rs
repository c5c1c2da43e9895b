//! `GET /v1/machines/{machine}/screen/text`

use otter::app::Settings;
use otter::simulator::ScreenStage;
use serde_json::{Value, json};

use crate::harness::Lab;

/// A machine that is on and shows the login.
const ON: &str = "17";
/// A machine that is off.
const OFF: &str = "16";

fn text_path(machine: &str, query: &str) -> String {
    format!("/v1/machines/{machine}/screen/text{query}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_text_has_its_words_with_their_places() {
    let lab = Lab::start().await;
    let read = lab.get(&text_path(ON, "")).await.expect(200);
    let text = read.str("text");
    assert!(text.contains("Qubes") && text.contains("user"), "{text}");
    assert!(text.find("Qubes") < text.find("user"), "from top to bottom");
    assert_eq!((&read.json["width"], &read.json["height"]), (&800.into(), &600.into()));
    // A part has the same places.
    let part = lab.get(&text_path(ON, "?region=300,100,220,60")).await.expect(200);
    assert!(part.str("text").contains("Qubes") && !part.str("text").contains("user"));
    for read in [&read, &part] {
        let words = read.json["words"].as_array().unwrap();
        let qubes = words.iter().find(|word| word["text"] == "Qubes").unwrap();
        let number = |field: &str| qubes[field].as_u64().unwrap();
        assert!((330..345).contains(&number("x")) && (118..140).contains(&number("y")), "{qubes}");
        assert!(number("confidence") > 50, "{qubes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_mode_is_read_too() {
    let lab = Lab::stepped().await;
    lab.control().show_screen(ON, ScreenStage::Menu);
    // The first key stops the countdown of the menu.
    let down = json!({"events": [{"keys": ["down"]}]});
    lab.post(&format!("/v1/machines/{ON}/screen/input"), down).await.expect(200);
    let read = lab.get(&text_path(ON, "")).await.expect(200);
    assert_eq!((&read.json["width"], &read.json["height"]), (&720.into(), &400.into()));
    assert!(read.str("text").contains("GNU GRUB"), "{}", read.text);
    // A low region can have several lines.
    let read = lab.get(&text_path(ON, "?region=0,320,720,40")).await.expect(200);
    let text = read.str("text");
    assert!(text.contains("select an entry") && text.contains("before booting"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_refused() {
    let lab = Lab::start().await;
    for (query, code) in [
        ("?region=1,2,3", "not-a-region"),
        ("?region=", "empty"),
        ("?region=700,0,200,50", "out-of-range"),
        ("?region=0,0,0,0", "not-a-region"),
    ] {
        let problem = lab.get(&text_path(ON, query)).await.problem(400, "invalid-request");
        problem.points_at("region", code);
    }
    lab.get(&text_path(OFF, "")).await.problem(409, "invalid-power-state");
    lab.get(&text_path("none-such", "")).await.problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tesseract_the_packages_are_named() {
    fn without_tesseract(settings: &mut Settings) {
        settings.screens.ocr_command = vec!["no-such-tesseract".to_owned()];
    }
    let lab = Lab::with_settings(without_tesseract).await;
    let problem = lab.get(&text_path(ON, "")).await.problem(501, "not-supported");
    assert_eq!(problem.json["machine"], Value::from(ON));
    assert!(problem.str("detail").contains("tesseract-ocr"), "{}", problem.text);
}
