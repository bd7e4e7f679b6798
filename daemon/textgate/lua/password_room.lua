-- SPDX-License-Identifier: MIT
-- Stands before the scripts of passwords. When there is room for one more under `most` in the counts {slice, count}; 0 if
-- there is room now. A slice counts until all of it is a window past.
local function room_at(counts, most, slices, slice_ms)
    local over = 1 - most
    for _, entry in ipairs(counts) do over = over + entry[2] end
    if over <= 0 then return 0 end
    table.sort(counts, function(one, other) return one[1] < other[1] end)
    local leaving = 0
    for _, entry in ipairs(counts) do
        if over <= 0 then break end
        leaving, over = entry[1], over - entry[2]
    end
    return (leaving + slices + 1) * slice_ms
end

