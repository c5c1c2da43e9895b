//! The methods of `VirtualMachine` for consoles: `AcquireTicket` and `PutUsbScanCodes`.

use super::Call;
use crate::simulator::console::put_scan_codes;
use crate::simulator::soap;
use crate::simulator::value::Value;
use crate::simulator::vim_fault::Fault;

pub fn run(call: &mut Call<'_>) -> Result<Option<String>, Fault> {
    let method = call.request.method.as_str();
    match method {
        "AcquireTicket" => acquire_ticket(call).map(Some),
        "PutUsbScanCodes" => {
            let accepted = put_scan_codes(&mut call.state.world, call.request)?;
            soap::answer_value(method, &Value::Int(accepted), "int").map(Some)
        }
        _ => Ok(None),
    }
}

fn acquire_ticket(call: &mut Call<'_>) -> Result<String, Fault> {
    let request = call.request;
    let kind = request.required("ticketType")?;
    let machine = call.state.world.machine(&request.target.id);
    let machine = machine.ok_or_else(|| Fault::not_found(&request.target))?;
    // The lower half of a UUID is random.
    let (_, random) = call.fresh.as_u64_pair();
    let text = format!("{random:016x}");
    let ticket = call.state.consoles.acquire_ticket(&call.state.world, machine, kind, text)?;
    soap::answer_value(&request.method, &ticket, "VirtualMachineTicket")
}
