//! `PutUsbScanCodes`: strokes on the virtual keyboard, without a console connection.

use super::super::guest_screen::Key;
use super::super::soap::{Request, is_true};
use super::super::vim_fault::Fault;
use super::super::world::World;
use super::{check_is_on, check_privilege};

/// The host loses the events of one call after this number, and reports them as accepted.
const MAX_EVENTS: usize = 32;

/// The modifiers of an event, and their keys.
const MODIFIERS: [(&str, Key); 8] = [
    ("leftControl", Key(0xe0)),
    ("leftShift", Key(0xe1)),
    ("leftAlt", Key(0xe2)),
    ("leftGui", Key(0xe3)),
    ("rightControl", Key(0xe4)),
    ("rightShift", Key(0xe5)),
    ("rightAlt", Key(0xe6)),
    ("rightGui", Key(0xe7)),
];

/// A stroke: a key, and the modifiers that are held meanwhile.
struct Stroke {
    key: Key,
    modifiers: Vec<Key>,
}

/// Runs the method on a machine. Returns the number of events that the host says it has accepted.
///
/// # Errors
/// `RestrictedVersion` with the free licence, `NoPermission` for a role that may only read,
/// `InvalidPowerState` if the machine is not on, `InvalidArgument` for a code that is no key.
pub fn put_scan_codes(world: &mut World, request: &Request) -> Result<i32, Fault> {
    let id = request.target.id.as_str();
    check_privilege(world, "VirtualMachine.Interact.PutUsbScanCodes")?;
    if world.rules.read_only_licence {
        return Err(Fault::restricted_version());
    }
    check_is_on(world.machine(id).ok_or_else(|| Fault::not_found(&request.target))?)?;
    let strokes = read_strokes(request)?;
    let now = world.now().elapsed;
    if let Some(screen) = world.screen_mut(id) {
        for Stroke { key, modifiers } in strokes.iter().take(MAX_EVENTS) {
            for modifier in modifiers {
                screen.key(now, *modifier, true);
            }
            screen.key(now, *key, true);
            screen.key(now, *key, false);
            for modifier in modifiers.iter().rev() {
                screen.key(now, *modifier, false);
            }
        }
    }
    Ok(i32::try_from(strokes.len()).unwrap_or(i32::MAX))
}

fn read_strokes(request: &Request) -> Result<Vec<Stroke>, Fault> {
    let Some(spec) = request.call().child("spec") else { return Ok(Vec::new()) };
    let strokes = spec.children_named("keyEvents").map(|event| {
        let code = event.child_text("usbHidCode").and_then(|text| text.trim().parse().ok());
        let key =
            code.and_then(key_of_code).ok_or_else(|| Fault::invalid_argument("usbHidCode"))?;
        let pressed = event.child("modifiers");
        let modifiers = MODIFIERS
            .iter()
            .filter(|(name, _)| {
                pressed.and_then(|modifiers| modifiers.child_text(name)).is_some_and(is_true)
            })
            .map(|(_, key)| *key)
            .collect();
        Ok(Stroke { key, modifiers })
    });
    strokes.collect()
}

/// The key of a code: its usage in the upper half, and the page of keyboards in the lower half.
fn key_of_code(code: i32) -> Option<Key> {
    let usage = u8::try_from(code >> 16).ok().filter(|usage| *usage > 3)?;
    (code & 0xffff == 7).then_some(Key(usage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_a_usage_on_the_page_of_keyboards() {
        assert_eq!(key_of_code(0x0028_0007), Some(Key::ENTER));
        assert_eq!(key_of_code(0x00e3_0007), Some(Key(0xe3)));
        assert_eq!(key_of_code(0x0028_0006), None);
        assert_eq!(key_of_code(7), None);
        assert_eq!(key_of_code(-1), None);
    }
}
