"""One query in each of several scripts, which apps and pages must answer as Python does."""

QUERIES = {  # script -> query
    "Latin": "red apple",
    "Cyrillic": "красное яблоко",
    "Greek": "κόκκινο μήλο",
    "Arabic": "تفاحة حمراء",
    "Hebrew": "תפוח אדום",
    "Devanagari": "लाल सेब",
    "Thai": "แอปเปิ้ลแดง",
    "Han": "紅蘋果",
    "Kana": "ラーメン",
    "Hangul": "빨간 사과",
    "Ethiopic": "ቀይ ፖም",
}
